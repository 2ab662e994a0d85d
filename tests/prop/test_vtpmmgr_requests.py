"""Any bytes get an answer frame, and what is refused changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vtpmmgr_root import PaperRoot

from vstack.vtpmmgr.manager import Manager, Peer

KEPT, UNKNOWN = UUID(int=1), UUID(int=2)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Manager, list[Peer]]]:
    manager = Manager.open(PaperRoot(), tmp_path_factory.mktemp("served") / "manager.db")
    peers = [manager.bind(KEPT), manager.bind(UNKNOWN)]
    manager.handle(peers[0], frame(0x1C1, 1, b"k" * 64))
    yield manager, peers
    manager.close()


def frame(tag: int, code: int, body: bytes) -> bytes:
    size = (10 + len(body)).to_bytes(4, "big")
    return tag.to_bytes(2, "big") + size + code.to_bytes(4, "big") + body


TAGS = st.sampled_from([0x1C1, 0x1C2, 0xC1, 0xC2, 0xC3]) | st.integers(0, 0xFFFF)
ORDINALS = st.sampled_from([1, 2, 3, 4, 5, 20, 21, 22, 70, 0x02000065]) | st.integers(0, 2**32 - 1)
SELECTION = st.binary(max_size=9).map(lambda bits: len(bits).to_bytes(2, "big") + bits)
FLAGS = st.integers(0, 31).map(lambda flags: flags.to_bytes(4, "big"))
QUOTE = st.tuples(st.binary(min_size=20, max_size=20), SELECTION, FLAGS).map(b"".join)
NUMBER = st.integers(0, 2**32 - 1).map(lambda number: number.to_bytes(4, "big"))
BODIES = QUOTE | NUMBER | st.binary(max_size=80)
REQUESTS = st.binary(max_size=100) | st.builds(frame, TAGS, ORDINALS, BODIES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(request_=REQUESTS, known=st.booleans())
def test_any_request_is_answered_and_a_refused_one_changes_nothing(
    served: tuple[Manager, list[Peer]], request_: bytes, known: bool
) -> None:
    manager, peers = served
    before = manager.status()
    answer = manager.handle(peers[0 if known else 1], request_)
    assert int.from_bytes(answer[2:6], "big") == len(answer) >= 10
    assert len(answer) <= 4088  # what a ring carries
    status = int.from_bytes(answer[6:10], "big")
    saved = request_[:2] == b"\x01\xc1" and request_[6:10] == b"\0\0\0\1"
    if status:
        assert len(answer) == 10
    if status or not saved:
        assert manager.status() == before
    else:
        assert manager.status().changes == before.changes + 1
    if len(request_) >= 10 and status:
        tag = int.from_bytes(request_[:2], "big")
        expected = {(tag + 3) & 0xFFFF}
        if 0xC1 <= tag <= 0xC3:
            expected.add(0xC4)  # a command that is passed through fails as a TPM command does
        assert int.from_bytes(answer[:2], "big") in expected
