"""`vitral data list`: list the public data sets that --data knows by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vit.commands.cli.options import parse
from vit.data.bundled.cards import cards, table


def main(arguments: Sequence[str]) -> int:
    return parse(List, arguments, "vitral data list").run()


@dataclass(frozen=True)
class List:
    """List the data sets that --data knows by name: task, images, classes, source, license."""

    json: bool = False
    """Print all fields of the cards as JSON."""

    def run(self) -> int:
        if self.json:
            print(json.dumps([asdict(card) for card in cards()], ensure_ascii=False, indent=1))
        else:
            print(*table(cards()), sep="\n")
        return 0
