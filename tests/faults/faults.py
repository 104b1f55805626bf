"""The faults of a campaign: what one cycle does to a rig under load, at a moment that its seed chose.

Each returns when it is over; the campaign starts again what it ended.
"""

import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .proxy import Cut
from .rig import Part, Rig, freeze

Fault = Callable[["Scene"], None]


@dataclass(slots=True)
class Scene:
    """Where a fault happens: the rig, the proxy between its shipper and the database, and the cycle's randomness."""

    rig: Rig
    cut: Cut
    choose: random.Random

    def pause(self, most: float) -> None:
        """A moment of random length."""
        time.sleep(self.choose.random() * most)

    def kill(self, parts: Sequence[Part]) -> None:
        """kill -9 of all of them at once."""
        for part in parts:
            part.send(signal.SIGKILL)
        for part in parts:
            part.kill()


# --- kill -9 and SIGSTOP ---------------------------------------------------------------------------------------------


def kill_worker(scene: Scene) -> None:
    scene.kill([scene.choose.choice(scene.rig.workers)])


def kill_shipper(scene: Scene) -> None:
    scene.kill(scene.rig.ships)


def kill_all_of_ours(scene: Scene) -> None:
    scene.kill(scene.rig.parts)


def kill_postgres(scene: Scene) -> None:
    scene.rig.postgres.kill()
    scene.pause(0.3)


def kill_everything(scene: Scene) -> None:
    scene.rig.postgres.kill()
    scene.kill(scene.rig.parts)


def kill_while_it_starts(scene: Scene) -> None:
    part = scene.choose.choice(scene.rig.parts)
    scene.kill([part])
    part.start()
    scene.pause(1.5)
    scene.kill([part])


def freeze_worker(scene: Scene) -> None:
    freeze([scene.choose.choice(scene.rig.workers)], scene.choose.random())


def freeze_shipper_and_kill_it(scene: Scene) -> None:
    freeze(scene.rig.ships, scene.choose.random() / 2)
    scene.kill(scene.rig.ships)


def freeze_everything(scene: Scene) -> None:
    """As a machine that is suspended."""
    with scene.rig.postgres.frozen():
        freeze(scene.rig.parts, scene.choose.random())


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def restart_postgres(scene: Scene) -> None:
    scene.rig.postgres.stop("fast")
    scene.pause(0.3)


def crash_postgres(scene: Scene) -> None:
    scene.rig.postgres.stop("immediate")
    scene.pause(0.3)


def freeze_postgres(scene: Scene) -> None:
    with scene.rig.postgres.frozen():
        scene.pause(1.0)


def end_backends(scene: Scene) -> None:
    """`pg_terminate_backend` of the shipper's connections, a few times."""
    for _ in range(3):
        _to_shippers(scene, "pg_terminate_backend")
        scene.pause(0.1)


def kill_backend(scene: Scene) -> None:
    """kill -9 of one server process: PostgreSQL ends all others and recovers."""
    backends = scene.rig.postgres.processes()[1:]
    if backends:
        scene.choose.choice(backends).kill()
        scene.rig.postgres.recover()


def cut_in_copy(scene: Scene) -> None:
    """The connection ends in the middle of the rows."""
    scene.cut.arm_in_copy(scene.choose.randrange(1, 60_000))
    scene.cut.wait(2.0)


def cut_before_commit(scene: Scene) -> None:
    """The connection ends after the rows and before COMMIT arrives."""
    scene.cut.arm_before_commit()
    scene.cut.wait(2.0)


def cut_after_commit(scene: Scene) -> None:
    """COMMIT arrives; its answer does not: the shipper cannot know."""
    scene.cut.arm_after_commit()
    scene.cut.wait(2.0)


def refuse_to_write(scene: Scene) -> None:
    """A database that can only be read, as after a failover to a standby."""
    name = scene.rig.service.database_url.partition("?")[0].rpartition("/")[2]
    postgres = scene.rig.postgres
    postgres.execute(f"alter database {name} set default_transaction_read_only = on")
    end_backends(scene)
    scene.pause(0.5)
    postgres.execute(f"alter database {name} reset default_transaction_read_only")
    end_backends(scene)


def cancel_statements(scene: Scene) -> None:
    """What a statement timeout does: the statement at work ends with an error."""
    for _ in range(3):
        _to_shippers(scene, "pg_cancel_backend")
        scene.pause(0.1)


def _to_shippers(scene: Scene, function: str) -> None:
    scene.rig.postgres.execute(
        f"select {function}(pid) from pg_stat_activity where application_name = 'mailtrail shipper'"
    )


CAMPAIGNS: Mapping[str, Sequence[tuple[Fault, int]]] = {
    "kills": (
        (kill_worker, 6),
        (kill_shipper, 6),
        (kill_while_it_starts, 3),
        (kill_all_of_ours, 2),
        (kill_postgres, 2),
        (kill_everything, 1),
    ),
    "freezes": ((freeze_worker, 2), (freeze_shipper_and_kill_it, 1), (freeze_everything, 1)),
    "postgres": (
        (restart_postgres, 2),
        (crash_postgres, 2),
        (freeze_postgres, 1),
        (end_backends, 2),
        (kill_backend, 2),
        (cut_in_copy, 4),
        (cut_before_commit, 4),
        (cut_after_commit, 4),
        (refuse_to_write, 1),
        (cancel_statements, 2),
    ),
}
"""The faults of each campaign, with their weights."""
