"""Tokenizers and chat templates: the only package that knows them.

Read `tokens` first (ids to text), then `chat_template` (a conversation to text), `end_tokens` (what ends a
completion), `control_tokens` (what data may spell and never write), `rendering` (prompts and answers to ids),
`matching` (whether two tokenizers fit together) and `files` (directories).

* Guarantee: a prompt is rendered once and a completion is tokenised once, and special tokens are not added twice. A
  completion ends with exactly one end token. Data that spell a control token are encoded as plain text.
* Cost: importing transformers takes 2-3 s, and loading a tokenizer about 1 s.
"""

from pipeline.models.tokenizer.chat_template import Chat, Message, check_variables, fixed_date, template_fingerprint
from pipeline.models.tokenizer.control_tokens import FilledText
from pipeline.models.tokenizer.end_tokens import add_end_ids, completion_decoder, eos_ids
from pipeline.models.tokenizer.files import byte_tokenizer, load_tokenizer, load_tokenizer_file, save_tokenizer
from pipeline.models.tokenizer.matching import check_head_rows, require_same_tokenizer, tokenizer_fingerprint
from pipeline.models.tokenizer.rendering import assistant_mask, completion_ids, reference_ids, render
from pipeline.models.tokenizer.tokens import Tokenizer, decode, shared_vocab, token_texts

__all__ = [
    "Chat",
    "FilledText",
    "Message",
    "Tokenizer",
    "add_end_ids",
    "assistant_mask",
    "byte_tokenizer",
    "check_head_rows",
    "check_variables",
    "completion_decoder",
    "completion_ids",
    "decode",
    "eos_ids",
    "fixed_date",
    "load_tokenizer",
    "load_tokenizer_file",
    "reference_ids",
    "render",
    "require_same_tokenizer",
    "save_tokenizer",
    "shared_vocab",
    "template_fingerprint",
    "token_texts",
    "tokenizer_fingerprint",
]
