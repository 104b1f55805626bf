"""The bench starts our collector in its own way: what it measures must be what the program offers today."""

from pathlib import Path

import pytest

from loadtests.installation import installed
from loadtests.peers import Collector, Everything, PlainLane, running


@pytest.mark.parametrize("kind", [Collector, PlainLane, Everything])
def test_a_peer_answers_records_and_ends(kind: type[Collector], tmp_path: Path) -> None:
    with installed(tmp_path / "installed", 0) as installation:
        peer = kind(installation, tmp_path / "peer", [0])
        with running(peer):
            for path in (installation.person_based.clicks[0], installation.anonymized.opens[0]):
                answered = peer.get(path)
                assert answered is not None
                assert answered[0] in (200, 302)
                peer.answered += 1
            peer.check()
