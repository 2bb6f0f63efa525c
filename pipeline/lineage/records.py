"""stillroom.json, beside the weights of every model that the pipeline makes: where it comes from.

Guarantee: a function of the work alone, without time stamps, seconds or paths of a machine, because DVC compares the
bytes; seconds and the code's version are in work/costs. A student that begins as another run's student carries that
one's lineage as `earlier`.
"""

from dataclasses import dataclass

FORMAT = "stillroom.lineage/2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model that came from outside, as params.yaml names it."""

    model: str
    revision: str | None
    hub: bool  # `model` is a name on the hub
    license: str | None  # as its model card or GGUF header says
    fingerprint: str  # of the directory that was made of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A segment of teacher scores that a round trained on."""

    name: str  # "corpus" or STUDENT/ROUND
    segment: str
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One `train` stage."""

    id: str
    first_step: int
    steps: int
    teacher: str  # fingerprint of the model that scored
    tokenizer: str
    scorer: str
    task: str
    settings: dict[str, object]  # task.settings
    hub_data: bool  # `settings.data` is a name on the hub
    prompts: str  # digest of the prompts' ids and tokens
    parameters: dict[str, object]  # sections of params.yaml that the stage read
    scored: tuple[Scored, ...]
    tokens: int  # in the loss
    read_tokens: int  # that the student read, prompts included


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """One `sft` stage."""

    model: str  # "teacher", or the student
    before: str  # fingerprints of the directory
    after: str
    task: str
    references: str  # digest of the prompts' and the references' ids
    parameters: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """A student, its teacher, and every round that it was trained for; no student: a teacher."""

    format: str
    student: str | None
    teacher: ModelSource
    start: ModelSource | None
    layers: tuple[int, ...] | dict[str, tuple[int, ...]] | None  # of the start that were kept; by stack
    config: dict[str, object] | None  # not null: the start had random weights
    rounds: tuple[Round, ...]
    earlier: "Lineage | None"
    tunings: tuple[Tuning, ...] = ()  # of the teacher, then of the student's start
    lora: dict[str, object] | None = None  # of a student that is an adapter, names as in peft's LoraConfig
