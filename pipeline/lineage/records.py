"""The records in stillroom.json, the file beside the weights of every model that the pipeline makes.

* The file is a function of the work alone, because DVC compares its bytes: it has no time stamps, seconds or paths of
  a machine. Seconds and the version of the code are in work/costs.
* A student that begins as the student of another run carries the lineage of that run as `earlier`.
"""

from dataclasses import dataclass

FORMAT = "stillroom.lineage/2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model from outside the project, as params.yaml names it."""

    model: str
    revision: str | None
    hub: bool  # Whether `model` is a name on the hub
    license: str | None  # The licence in its model card or GGUF header
    fingerprint: str  # Fingerprint of the model directory that was made from it
    auto_class: str = "AutoModelForCausalLM"  # The class of transformers that loads the directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A segment of teacher scores that a round was trained on."""

    name: str  # `corpus` or STUDENT/ROUND
    segment: str
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One `train` stage."""

    id: str
    first_step: int
    steps: int
    teacher: str  # Fingerprint of the model that scored
    tokenizer: str
    scorer: str
    task: str
    settings: dict[str, object]  # The section task.settings of params.yaml
    hub_data: bool  # Whether `settings.data` is a name on the hub
    prompts: str  # Digest of the prompts' ids and tokens
    parameters: dict[str, object]  # The sections of params.yaml that the stage read
    scored: tuple[Scored, ...]
    tokens: int  # Tokens in the loss
    read_tokens: int  # Tokens that the student read, prompts included


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """One `sft` stage."""

    model: str  # `teacher` or the name of the student
    before: str  # Fingerprint of the model directory before tuning
    after: str  # Fingerprint of the model directory after tuning
    task: str
    references: str  # Digest of the ids of the prompts and their references
    parameters: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """A student, its teacher, and every round that it was trained for; without a student, a teacher."""

    format: str
    student: str | None
    teacher: ModelSource
    start: ModelSource | None
    # Layers that a pruned student kept, of an encoder-decoder by stack.
    layers: tuple[int, ...] | dict[str, tuple[int, ...]] | None
    # Changes to the configuration of a randomly initialised student; None for other students.
    config: dict[str, object] | None
    rounds: tuple[Round, ...]
    earlier: "Lineage | None"
    # Supervised fine-tuning of the teacher, then of the student's start.
    tunings: tuple[Tuning, ...] = ()
    # Settings of a student that is an adapter, named as in peft's LoraConfig.
    lora: dict[str, object] | None = None
