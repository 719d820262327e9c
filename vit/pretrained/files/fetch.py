"""`timm:NAME` and `hf:OWNER/REPO[/FILE]`, by timm and huggingface_hub with their caches and offline switches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from vit.errors import UserError, nearest, shown
from vit.pretrained.files.card import CONFIG, IMAGES, timm_card
from vit.pretrained.files.shards import INDEX, weight_map
from vit.pretrained.files.source import FILES, SUFFIXES, Source, open_source


def open_weights(source: str, *, trust_pickle: bool = False) -> Source:
    """Open a file, a folder of Hugging Face's, `timm:NAME` or `hf:OWNER/REPO[/FILE]`. Raises UserError if it cannot be
    read."""
    return (fetch if is_remote(source) else open_source)(source, trust_pickle=trust_pickle)


def is_remote(source: str) -> bool:
    return source.startswith(("timm:", "hf:"))


def fetch(source: str, *, trust_pickle: bool = False) -> Source:
    """Open a remote source. Raises UserError on an unknown name, and without both a network and a cached copy."""
    kind, _, name = source.partition(":")
    if kind == "timm":
        return _timm(name)
    if name.startswith("timm/") and name.count("/") == 1:  # where timm keeps them
        return _timm(name.removeprefix("timm/"))
    return _huggingface(name, trust_pickle)


def check_timm(name: str) -> None:
    """Raises UserError, with the nearest name, unless timm lists this model and weights of it. Uses no network."""
    import timm

    architecture, _, tag = name.partition(".")
    names = timm.list_models()
    if architecture not in names:
        raise UserError(f"timm has no model {name!r}.{nearest(architecture, names)}")
    tags = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tags:
        choice = f" It has {shown(tags)}." if tags else " It has none of this model."
        raise UserError(f"timm has no weights {name!r}.{nearest(name, tags)}{choice}")
    if not tags:
        raise UserError(f"timm has the model {name!r}, but no weights for it.")


def _timm(name: str) -> Source:
    import timm
    from timm.models import get_pretrained_cfg

    check_timm(name)
    repository = getattr(get_pretrained_cfg(name), "hf_hub_id", None)
    try:
        model: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the hub, the network and the cache raise
        raise _absent(f"timm:{name}", repository, ("model.safetensors",), error) from None
    return Source.of(model.state_dict(), f"timm:{name}", timm_card(model, model.pretrained_cfg))


def _huggingface(name: str, trust_pickle: bool) -> Source:
    owner, _, rest = name.partition("/")
    repo, _, file = rest.partition("/")
    if not owner or not repo or "//" in name or name.endswith("/"):
        raise UserError(f"hf:{name}: a repository is OWNER/REPO, for example hf:facebook/dinov2-small.")
    if file and not file.endswith(SUFFIXES):
        raise UserError(f"hf:{name}: weights are read from {', '.join(SUFFIXES)} files.")
    download = _downloader(f"{owner}/{repo}")
    candidates = (file,) if file else (*FILES, f"{repo}.pt")  # the last: the Perception Encoder
    missing: Exception | None = None
    for candidate in candidates:
        found = download(candidate)
        if isinstance(found, Path):
            return replace(_opened(found, candidate, download, trust_pickle), name=f"hf:{name} ({candidate})")
        missing = missing or found
    if missing is None:
        raise UserError(
            f"hf:{name} holds none of {', '.join(candidates)}. Name the file, hf:{owner}/{repo}/FILE, or download it "
            "and pass --weights FILE."
        )
    raise _absent(f"hf:{name}", f"{owner}/{repo}", (file,) if file else (FILES[0], CONFIG), missing)


Downloader = Callable[[str], Path | Exception | None]
"""The name of a file in a repository -> its path in the cache, None if it does not exist, or the network's error."""


def _downloader(repo: str) -> Downloader:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    unreachable = False

    def download(file: str) -> Path | Exception | None:
        nonlocal unreachable
        try:
            return Path(hf_hub_download(repo, file, local_files_only=unreachable))
        except GatedRepoError:  # before its base class
            raise UserError(
                f"hf:{repo} requires that you accept its terms. Do so at https://huggingface.co/{repo}, "
                "then log in with `hf auth login` or set HF_TOKEN."
            ) from None
        except RepositoryNotFoundError:
            raise UserError(f"hf:{repo}: the Hub has no such public repository. Check the spelling.") from None
        except LocalEntryNotFoundError as error:  # no network and not in the cache; another file may be there
            unreachable = True
            return error
        except EntryNotFoundError:
            return None
        except Exception as error:  # whatever the network raises
            unreachable = True
            return error

    return download


def _opened(file: Path, name: str, download: Downloader, trust_pickle: bool) -> Source:
    """Open a file in the cache, after fetching the parts of an index and the files that describe the weights."""
    if name.endswith(INDEX):
        for part in sorted(set(weight_map(file).values())):
            found = download(str(PurePosixPath(name).with_name(part)))
            if not isinstance(found, Path):
                reason = _first_line(found) if found else "The repository does not have it."
                raise UserError(f"{file} names {part}, which could not be fetched: {reason}")
    if name in FILES:
        for beside in (CONFIG, IMAGES):  # not every repository has them
            download(beside)
    return open_source(file, trust_pickle=trust_pickle)


def _absent(source: str, repo: str | None, files: Sequence[str], error: Exception) -> UserError:
    """The error for weights that cannot be fetched, with what to do without a network."""
    problem = f"{source} could not be fetched and is not in the cache: {_first_line(error)}"
    if repo is None:
        return UserError(f"{problem} Pass the file itself: --weights FILE.")
    from huggingface_hub.constants import HF_HUB_CACHE

    cached = Path(HF_HUB_CACHE) / ("models--" + repo.replace("/", "--"))
    return UserError(
        f"{problem} Without a network: download {' and '.join(files)} from https://huggingface.co/{repo} on another "
        f"machine and pass the file (--weights {Path(files[0]).name} --model NAME), or copy the cache of that machine "
        f"to {cached}."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."
