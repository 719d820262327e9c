"""`timm:NAME` and `hf:OWNER/REPO`: through timm and huggingface_hub, their caches and their off-line switches."""

from __future__ import annotations

from pathlib import Path

from vit.errors import UserError, nearest
from vit.pretrained.source import FILES, Source, open_source


def open_weights(source: str, *, trust_pickle: bool = False) -> Source:
    """A file, a folder of Hugging Face's, `timm:NAME` or `hf:OWNER/REPO`. Raises UserError where it cannot be read."""
    return fetch(source) if is_remote(source) else open_source(source, trust_pickle=trust_pickle)


def is_remote(source: str) -> bool:
    return source.startswith(("timm:", "hf:"))


def fetch(source: str) -> Source:
    """Raises UserError on a name that does not exist and when there is neither a network nor a cached copy."""
    kind, _, name = source.partition(":")
    return _timm(name) if kind == "timm" else _huggingface(name)


def _timm(name: str) -> Source:
    import timm

    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise UserError(f"timm has no model {name!r}.{nearest(name.split('.')[0], known)}")
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the hub, the network and the cache raise
        raise UserError(
            f"timm:{name} could not be fetched and is not in the cache: {_first_line(error)} Without a network, "
            "fetch it elsewhere (timm.create_model with pretrained=True fills the cache of huggingface_hub, HF_HOME) "
            "and copy that folder here, or pass the file itself: --weights FILE.safetensors."
        ) from None
    return Source.of(model.state_dict(), f"timm:{name}")


def _huggingface(repo: str) -> Source:
    if repo.count("/") != 1:
        raise UserError(f"hf:{repo}: a repository is OWNER/REPO, for example hf:facebook/dinov2-small.")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    problem: Exception | None = None
    for file in FILES:
        try:
            return open_source(Path(hf_hub_download(repo, file)))
        except RepositoryNotFoundError:
            raise UserError(f"hf:{repo}: there is no such public repository on the Hub. Check its spelling.") from None
        except LocalEntryNotFoundError as error:  # before its base class: no network, not in the cache
            problem = error
        except EntryNotFoundError:
            continue
        except UserError:
            raise
        except Exception as error:  # whatever the network raises
            problem = error
            break
    if problem is None:
        raise UserError(f"hf:{repo} holds none of {', '.join(FILES)}. Download its file and pass that: --weights FILE.")
    raise UserError(
        f"hf:{repo} could not be fetched and is not in the cache: {_first_line(problem)} Without a network, download "
        f"{FILES[0]} of that repository elsewhere and pass it: --weights FILE.safetensors, or copy the cache folder "
        "(HF_HOME) here."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."
