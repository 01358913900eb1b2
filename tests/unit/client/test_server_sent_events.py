"""However the transport cuts the bytes, the same events come out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.server_sent_events import EventParser


def parts_of(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(raw) + 1) for cut in cuts})
    return [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]


def parse(parts: list[bytes]) -> tuple[list[str], bool]:
    parser = EventParser()
    events = [event for part in parts for event in parser.feed(part)]
    return events, parser.unfinished


CUTS = st.lists(st.integers(0, 10_000), max_size=20)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(texts=st.lists(TEXT, max_size=6), cuts=CUTS, line_end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_json_events_survive_every_cut(texts: list[str], cuts: list[int], line_end: str) -> None:
    raw = "".join(f"data: {json.dumps(text, ensure_ascii=False)}{line_end * 2}" for text in texts).encode()
    events, unfinished = parse(parts_of(raw, cuts))
    assert [json.loads(event) for event in events] == texts
    assert not unfinished


@given(raw=st.text(st.sampled_from("data:\r\n é🙂x"), max_size=60).map(str.encode), cuts=CUTS)
def test_any_bytes_give_the_events_that_the_standard_says(raw: bytes, cuts: list[int]) -> None:
    assert parse(parts_of(raw, cuts))[0] == events_by_the_book(raw.decode())


def events_by_the_book(text: str) -> list[str]:
    """The slow way: all lines first, then a block at a time. What no blank line ends is dropped."""
    events: list[str] = []
    data: list[str] = []
    *lines, _unended = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for line in lines:
        if line == "data" or line.startswith("data:"):
            value = line[5:]
            data.append(value[1:] if value.startswith(" ") else value)
        elif line == "" and data:
            events.append("\n".join(data))
            data = []
    return events


@pytest.mark.parametrize("raw", [b"data: x", b"data: x\n", b"dat", "data: é".encode()[:-1]])
def test_an_event_that_is_cut_off_is_noticed(raw: bytes) -> None:
    assert parse([raw]) == ([], True)


def test_comments_and_other_fields_are_passed_over() -> None:
    assert parse([b": ping\nevent: x\nid: 3\ndata: a\ndata:b\n\n"]) == (["a\nb"], False)


def test_bytes_that_are_not_utf8_are_an_error() -> None:
    with pytest.raises(UnicodeDecodeError):
        EventParser().feed(b"data: \xff\n\n")
