"""Running a transformers model: from token ids to hidden states, logits and text.

Read `language_model` first (the interface that the other packages use), then `completions` and `decoding`, `probe` and
`reuse` (what a model's states may serve for), `forward`, `kv_cache` and `architectures` (what differs between model
classes), `head`, `categorical`, `context`, `lora` and `tokenizer`.
Every package above `core` may import it; it imports `core` and `runtime` only.
"""
