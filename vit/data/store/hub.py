"""Fetch `hf:OWNER/NAME`: the Parquet files of a Hugging Face Hub data set, through huggingface_hub and its cache."""

from __future__ import annotations

import os
import re

from vit.errors import UserError

# The revision with the Hub's own conversion of other formats.
CONVERTED = "refs/convert/parquet"


def fetch_data(source: str) -> tuple[str, list[str]]:
    """Fetch `hf:OWNER/NAME[/FOLDER][@REVISION]`; return the local folder with its Parquet files, and notes.

    Cached files are not fetched again; HF_HUB_OFFLINE=1 and HF_HOME work as usual. Raises UserError for an unknown
    repository or revision, no Parquet files, and no network with nothing in the cache.
    """
    match = re.fullmatch(r"hf:([^/@#]+/[^/@#]+)(?:/([^@#]+?))?/?(?:@([^#]+))?", source)
    if match is None:
        raise UserError(f"{source}: a data set is hf:OWNER/NAME, for example hf:uoft-cs/cifar10.")
    repository, folder, revision = match.groups()
    found = _snapshot(source, repository, folder, revision)
    notes = []
    if found is None and revision is None:
        found = _snapshot(source, repository, folder, CONVERTED)
        notes = [f"{source}: has no Parquet files of its own; read are those that the Hub made of it ({CONVERTED})."]
    if found is None:
        raise UserError(
            f"{source}: has no .parquet files{f' in {folder}' if folder else ''}. Download it, and give the folder "
            "with its images or its manifest."
        )
    return found, notes


def _snapshot(source: str, repository: str, folder: str | None, revision: str | None) -> str | None:
    """The snapshot's folder; None if it has no Parquet files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    below = f"{folder}/" if folder else ""
    try:
        root = snapshot_download(
            repository, repo_type="dataset", revision=revision, allow_patterns=[f"{below}*.parquet"]
        )
    except RepositoryNotFoundError:
        raise UserError(
            f"{source}: there is no such public data set on the Hub. Check its spelling; for a private one, log in "
            "with `hf auth login`."
        ) from None
    except RevisionNotFoundError:
        if revision == CONVERTED:
            return None
        raise UserError(f"{source}: has no revision {revision}.") from None
    except LocalEntryNotFoundError as error:
        if revision == CONVERTED:
            return None
        raise UserError(_not_here(source, error)) from None
    except Exception as error:  # anything that the network raises
        raise UserError(_not_here(source, error)) from None
    root = os.path.join(root, folder) if folder else root
    some = any(name.endswith(".parquet") for _, _, names in os.walk(root) for name in names)
    return root if some else None


def _not_here(source: str, error: Exception) -> str:
    lines = str(error).splitlines()
    reason = (lines[0] if lines else type(error).__name__).rstrip(".")
    return (
        f"{source} could not be fetched and is not in the cache: {reason}. Without a network, download it elsewhere "
        "(hf download --repo-type dataset) and give the folder with its .parquet files."
    )
