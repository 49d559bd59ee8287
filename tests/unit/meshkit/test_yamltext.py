# SPDX-License-Identifier: Apache-2.0
"""YAML from anybody costs no more than it is long, and says what kubectl would have read."""

from __future__ import annotations

import pytest

from meshkit.yamltext import MAXIMUM_BYTES, MAXIMUM_DEPTH, YamlTextError, load_documents


def bomb(levels: int = 9, width: int = 9) -> str:
    """Each level lists the one before it `width` times: width ** levels values in some hundred bytes."""
    lines = ["a0: &a0 [" + ", ".join(["x"] * width) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * width) + "]" for n in range(1, levels)]
    return "\n".join([*lines, f"kind: *a{levels - 1}"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb(), "aliases written out"),
        ("[" * 100_000, f"nested deeper than {MAXIMUM_DEPTH}"),
        ("{a: " * 5_000, f"nested deeper than {MAXIMUM_DEPTH}"),
        ("- " * 50_000, f"nested deeper than {MAXIMUM_DEPTH}"),
        ("a: &a [*a]", "an alias that contains itself"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice"),
        ("spec: {ingress: [], ingress: [{}]}", "'ingress' is given twice"),
        ('{"spec": {"ingress": [],\n "ingress": [{}]}}', "line 2: 'ingress' is given twice"),
        ('{"a": ' * 5_000, f"nested deeper than {MAXIMUM_DEPTH}"),
        ("x" * (MAXIMUM_BYTES + 1), "are read"),
        ("a: [1", "expected"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
    ],
    ids=[
        "bomb",
        "brackets",
        "braces",
        "dashes",
        "itself",
        "twice",
        "twice in a flow",
        "twice in JSON",
        "JSON braces",
        "size",
        "broken",
        "tag",
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(YamlTextError, match=reason) as caught:
        list(load_documents(text))
    assert len(str(caught.value)) < 400


def test_an_ordinary_anchor_is_read() -> None:
    assert list(load_documents("base: &b {app: web}\nsame: *b\nmore: {<<: *b, tier: x}")) == [
        {"base": {"app": "web"}, "same": {"app": "web"}, "more": {"app": "web", "tier": "x"}}
    ]


@pytest.mark.parametrize(
    ("text", "value"), [("y", True), ("N", False), ("yes", True), ("off", False), ("'n'", "n"), ("ny", "ny")]
)
def test_booleans_are_kubectls(text: str, value: object) -> None:
    assert list(load_documents(f"v: {text}")) == [{"v": value}]


def test_documents_come_one_by_one() -> None:
    assert list(load_documents("a: 1\n---\n---\nb: 2\n")) == [{"a": 1}, None, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, true, null, "y", {}]}', {"a": [1, 2.5, True, None, "y", {}]}),
        ("{a: y, b: 'x'}", {"a": True, "b": "x"}),  # braces, and no JSON
        ('{"a": NaN}', {"a": "NaN"}),
        ('{"a": 1}\n---\nb: 2', {"a": 1}),
    ],
)
def test_braces_are_json_where_they_are_and_yaml_elsewhere(text: str, value: object) -> None:
    assert next(iter(load_documents(text))) == value


@pytest.mark.parametrize("depth", [1, 20, MAXIMUM_DEPTH, MAXIMUM_DEPTH + 1])
@pytest.mark.parametrize("shape", ["lines", "dashes", "maps and lists", "brackets", "one-pair maps"])
def test_depth_is_bounded_in_every_shape(shape: str, depth: int) -> None:
    """The shortcut for shallow texts must not pass what is deeper than allowed."""
    text = {
        "lines": "".join(" " * level + f"k{level}:\n" for level in range(depth)) + " " * depth + "x",
        "dashes": "- " * depth + "x",
        "maps and lists": "".join(
            "  " * (level // 2) + ("k:\n" if level % 2 == 0 else "- \n") for level in range(depth)
        ),
        "brackets": "[" * depth + "]" * depth,
        "one-pair maps": "[a: " * (depth // 2) + "x" + "]" * (depth // 2)
        if depth % 2 == 0
        else "[" * depth + "]" * depth,
    }[shape]
    if depth <= MAXIMUM_DEPTH:
        assert len(list(load_documents(text))) == 1
    else:
        with pytest.raises(YamlTextError, match="nested deeper"):
            list(load_documents(text))


@pytest.mark.parametrize("text", [r'{"a": "\ud800"}', r'{"\udfff": 1}', r'{"a": ["x\udc00y"]}', r'a: "\ud800"'])
def test_half_of_a_surrogate_pair_is_refused(text: str) -> None:
    """No message that quotes it could be printed or sent."""
    with pytest.raises(YamlTextError):
        list(load_documents(text))


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert list(load_documents(r'{"a": "\ud83d\ude00"}')) == [{"a": "\N{GRINNING FACE}"}]
