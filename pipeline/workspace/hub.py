"""Ask the hub which files a model or a data set has, in seconds, before anything is fetched."""

from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from pipeline.runtime.errors import ModelError

_TIMEOUT = 10.0  # seconds
_FIRST_FILES = ("config.json", "adapter_config.json")


def hub_files(kind: Literal["model", "dataset"], name: str, revision: str | None, *, where: str) -> list[str] | None:
    """Return the names of the files of a repository on the hub, None where the hub cannot be asked.

    Args:
        kind: What the repository holds.
        name: OWNER/NAME.
        revision: Branch, tag or commit.
        where: The parameter or option that names it.

    Raises:
        ModelError: The hub says that there is no such repository or revision.
    """
    ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
    try:
        files = ask(name, revision=revision, timeout=_TIMEOUT).siblings
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        got = f"no {name!r} on the hub"
        if isinstance(error, RevisionNotFoundError):
            got = f"no revision {revision!r} of {name!r}"
        elif isinstance(error, HFValidationError):
            got = f"{name!r} ({' '.join(str(error).split())[:120]})"
        expected = f"a {kind} on the hub or a directory"
        remedy = "correct the name, or `hf auth login` if it is private"
        raise ModelError(where, expected=expected, got=got, remedy=remedy) from error
    except Exception:  # no network, HF_HUB_OFFLINE, a hub that is down: errors of whatever library speaks HTTP
        return None
    return [file.rfilename for file in files or ()]


def cached_files(name: str, revision: str | None) -> list[str] | None:
    """Return the names of the files of a hub model that are in the hub's cache, None where there are none."""
    for first in _FIRST_FILES:
        file = try_to_load_from_cache(name, first, revision=revision)
        if isinstance(file, str):
            return [path.name for path in Path(file).parent.iterdir()]
    return None
