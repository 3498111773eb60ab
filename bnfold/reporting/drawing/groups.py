"""Which operators of a graph are drawn as one box: subgraphs, paths in names, repeated blocks, chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnfold.reporting.drawing.model_explorer import namespace
from bnfold.reporting.drawing.view import View

#: A level of so many boxes needs no further grouping.
_ENOUGH = 24
#: The longest block that is looked for, in boxes of its level, and the shortest chain that becomes one box.
_LONGEST_BLOCK, _SHORTEST_CHAIN = 32, 3
_WORDS = 4


@dataclass(frozen=True, slots=True)
class Group:
    """A box that opens: its title and the number of the group around it, None at the top."""

    label: str
    parent: int | None


@dataclass(frozen=True, slots=True)
class Grouping:
    """All groups, outer ones first, and for every node of the view the number of its group, None at the top."""

    groups: tuple[Group, ...]
    member: tuple[int | None, ...]


class _Box:
    """A node (by its number) or a group of boxes, while the tree is built."""

    def __init__(self, label: str, node: int | None = None) -> None:
        self.label = label
        self.node = node
        self.children: list[_Box] = []
        self.folders: dict[str, _Box] = {}
        self.signature = ""
        self.first = self.last = node


def group(view: View) -> Grouping:
    """Boxes for a view. Every box holds at least two others; the order of the file decides what is adjacent."""
    root = _by_path(view)
    links = _links(view)
    _compress(root)
    _refine(root, links)
    groups: list[Group] = []
    member: list[int | None] = [None] * len(view.nodes)
    pending: list[tuple[_Box, int | None]] = [(root, None)]
    while pending:
        box, number = pending.pop()
        for child in box.children:
            if child.node is not None:
                member[child.node] = number
            else:
                groups.append(Group(child.label, number))
                pending.append((child, len(groups) - 1))
    return Grouping(tuple(groups), tuple(member))


def _by_path(view: View) -> _Box:
    root = _Box("")
    for number, node in enumerate(view.nodes):
        box = root
        for part in namespace(node).split("/"):
            if part:
                if part not in box.folders:
                    box.folders[part] = _Box(part)
                    box.children.append(box.folders[part])
                box = box.folders[part]
        leaf = _Box(node.type, number)
        leaf.signature = node.type
        box.children.append(leaf)
    return root


def _links(view: View) -> dict[int, int]:
    """The nodes that have one reader alone, which reads nothing else: by number, the one before to the one after."""
    numbers = {node.key: number for number, node in enumerate(view.nodes)}
    ahead: dict[int, set[int]] = {}
    behind: dict[int, set[int]] = {}
    for edge in view.edges:
        source, target = numbers[edge.source], numbers[edge.target]
        ahead.setdefault(source, set()).add(target)
        behind.setdefault(target, set()).add(source)
    return {
        source: target
        for source, targets in ahead.items()
        if len(targets) == 1
        for target in targets
        if len(behind[target]) == 1
    }


def _deepest_first(root: _Box) -> list[_Box]:
    order = [root]
    for box in order:
        order += [child for child in box.children if child.node is None]
    return order[::-1]


def _compress(root: _Box) -> None:
    """A box in which there is one thing alone gives way to it."""
    for box in _deepest_first(root):
        for place, child in enumerate(box.children):
            if child.node is None and len(child.children) == 1:
                (inner,) = child.children
                if inner.node is None:
                    inner.label = f"{child.label}/{inner.label}"
                box.children[place] = inner


def _refine(root: _Box, links: dict[int, int]) -> None:
    for box in _deepest_first(root):
        if len(box.children) > _ENOUGH:
            box.children = _repeats(box.children)
        if len(box.children) > _ENOUGH:
            box.children = _chains(box.children, links)
        _close(box)


def _close(box: _Box) -> None:
    box.signature = f"({' '.join(child.signature for child in box.children)})"
    if len(box.signature) > 400:  # of large boxes the beginning and the length tell enough
        box.signature = f"{box.signature[:400]}…{len(box.signature)}"
    box.first, box.last = box.children[0].first, box.children[-1].last


def _repeats(boxes: Sequence[_Box]) -> list[_Box]:
    """Blocks that follow each other and look the same become one box, in which each is a box."""
    found: list[_Box] = []
    signatures = [box.signature for box in boxes]
    place = 0
    while place < len(boxes):
        period, count = _repeat_at(signatures, place)
        if count < 2:
            found.append(boxes[place])
            place += 1
            continue
        outer = _Box(f"{count} × {_words(boxes[place : place + period])}")
        for number in range(count):
            block = list(boxes[place + number * period : place + (number + 1) * period])
            outer.children.append(block[0] if period == 1 else _made(f"block {number + 1}", block))
        _close(outer)
        found.append(outer)
        place += period * count
    return found


def _repeat_at(signatures: Sequence[str], place: int) -> tuple[int, int]:
    """Length and number of the blocks that begin here: those that cover most, of these the shortest."""
    best = (1, 1)
    for period in range(1, min(_LONGEST_BLOCK, (len(signatures) - place) // 2) + 1):
        count = 1
        while _same(signatures, place, place + count * period, period):
            count += 1
        needed = 2 if period >= _SHORTEST_CHAIN else 4
        if count >= needed and count * period > best[0] * best[1]:
            best = (period, count)
    return best


def _same(signatures: Sequence[str], one: int, other: int, length: int) -> bool:
    return other + length <= len(signatures) and all(
        signatures[one + step] == signatures[other + step] for step in range(length)
    )


def _chains(boxes: Sequence[_Box], links: dict[int, int]) -> list[_Box]:
    """Neighbours of which each is the only reader of the one before become one box."""
    found: list[_Box] = []
    run: list[_Box] = []
    for box in boxes:
        tied = run and run[-1].last is not None and links.get(run[-1].last, -1) == box.first
        if not tied:
            found += _chain(run)
            run = []
        run.append(box)
    return found + _chain(run)


def _chain(run: list[_Box]) -> list[_Box]:
    return run if len(run) < _SHORTEST_CHAIN else [_made(_words(run), run)]


def _made(label: str, children: list[_Box]) -> _Box:
    box = _Box(label)
    box.children = children
    _close(box)
    return box


def _words(boxes: Sequence[_Box]) -> str:
    labels = [box.label for box in boxes]
    shown = labels if len(labels) <= _WORDS else [*labels[: _WORDS - 1], "…", labels[-1]]
    return " → ".join(shown)
