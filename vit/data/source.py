"""Resolves the name that a user gives for a data set."""

from __future__ import annotations

import os

from vit.data.bundled.cards import COMES_ALONG, FROM_FOLDER, card, names, what_is_expected
from vit.data.sets.data import Kind
from vit.errors import UserError, nearest


def meant(source: str, kind: Kind | None = None) -> tuple[str, Kind | None, list[str]]:
    """The source of a named data set, its kind, and notes; any other source unchanged.

    A file or folder of that name in the current directory takes precedence, unless the set comes with the package.

    Raises UserError if the set is of another kind, or must be downloaded by hand and is not here.
    """
    found = card(source)
    if found is None:
        return source, kind, []
    here, bundled = os.path.exists(source), found.source == COMES_ALONG
    if here and not (bundled and kind in (None, found.kind)):
        aside = "" if found.source == FROM_FOLDER else f"{source}: the folder here is read, not {found.source}."
        return source, kind, [aside] if aside and not bundled else []
    if kind is not None and kind != found.kind:
        raise UserError(f"{source}: its images have {found.kind}, not {kind}. Train on it with {found.command}.")
    if found.source == FROM_FOLDER:
        raise UserError(what_is_expected(found))
    return source if bundled else found.source, found.kind, []


def kind_of(source: str) -> Kind | None:
    """The kind of a named data set; None if no card has this name, or a folder of this name takes precedence."""
    found = card(source)
    if found is None or (found.source != COMES_ALONG and os.path.exists(source)):
        return None
    return found.kind


def column_of(source: str) -> tuple[str, str | None]:
    """Split PATH#COLUMN into the path and the column of the labels; a # in the name of an existing file is kept."""
    path, sign, column = source.rpartition("#")
    return (path, column) if sign and not os.path.exists(os.path.expanduser(source)) else (source, None)


def existing(source: str) -> str:
    """The nearest match for the first missing part of a path, among its siblings and the names of the cards."""
    parent, part = os.path.abspath(source), ""
    while not os.path.isdir(parent):
        parent, part = os.path.split(parent)
    try:
        beside = [entry.name for entry in os.scandir(parent)]
    except OSError:
        beside = []
    shown_parent = parent if os.path.isabs(source) else os.path.relpath(parent)
    options = [os.path.normpath(os.path.join(shown_parent, name)) for name in beside]
    if os.sep not in source:
        options += names()
    return nearest(os.path.normpath(os.path.join(shown_parent, part)), options)
