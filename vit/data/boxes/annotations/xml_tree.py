"""Parse untrusted XML: no custom entities, no network access, and a size limit."""

from __future__ import annotations

import os
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from vit.errors import UserError

LARGEST = 10 * 2**20
"""Bytes of an annotation file."""


def read_xml(file: str) -> Element:
    """Return the root element. Raises UserError for invalid XML, custom entities, and files above LARGEST bytes.

    Entities can read other files or expand to gigabytes; annotations need only the predefined ones, such as &amp;.
    """

    def refuse(*_: object) -> NoReturn:
        raise UserError(f"{file}: defines entities, which are not read for safety's sake; write their text instead")

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        if os.path.getsize(file) > LARGEST:
            raise UserError(f"{file}: more than {LARGEST // 2**20} MB, too large for the annotations of one image")
        with open(file, "rb") as stream:
            parser.Parse(stream.read(), True)
        return builder.close()
    except expat.ExpatError as error:
        raise UserError(f"{file}: is no XML ({error})") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: cannot be read ({error})") from None
