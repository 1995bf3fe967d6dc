"""What the desk finds among very many deliveries, in two memories that each show their latest only."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lading.agent.outbox import Outbox
from lading.delivery import Delivery, DeliveryId, Labels, Stage
from lading.desk import Account, Desk, UnknownDelivery
from lading.errors import ConfigError
from lading.memories import AgentMemory

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def delivery_id(number: int) -> DeliveryId:
    return DeliveryId(f"20260101-{number:08d}")


class Remembers:
    """A memory of these stages, by number of the delivery; the one of the highest number is the latest."""

    def __init__(self, stages: Mapping[int, Stage], *, name: str = "server", paused: int = -1) -> None:
        self._accounts = {
            delivery_id(number): Account(
                Delivery(delivery_id(number), "mri", Labels("DEMO", "sub-001", "MR1"), stage=stage),
                NOW, (name,), paused=number == paused,
            )
            for number, stage in stages.items()
        }  # fmt: skip

    def recent(self, *, stages: Sequence[Stage], limit: int) -> Iterable[Account]:
        newest = reversed(self._accounts.values())
        return [one for one in newest if not stages or one.delivery.stage in stages][:limit]

    def account(self, delivery: DeliveryId) -> Account | None:
        return self._accounts.get(delivery)

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the desk asked for {name}")


def many(count: int, oldest: Stage, others: Stage = Stage.VERIFIED) -> dict[int, Stage]:
    return {0: oldest} | dict.fromkeys(range(1, count), others)


@pytest.mark.parametrize("stage", [Stage.HELD, Stage.REJECTED, Stage.QUEUED])
def test_what_has_waited_for_long_is_listed_by_its_stage(stage: Stage) -> None:
    desk = Desk(server=Remembers(many(1500, stage)))  # type: ignore[arg-type]

    assert [one.delivery.id for one in desk.recent(stages=[stage], limit=40)] == [delivery_id(0)]


def test_what_was_paused_long_ago_is_listed() -> None:
    desk = Desk(server=Remembers(many(1500, Stage.QUEUED), paused=0))  # type: ignore[arg-type]

    assert [one.delivery.id for one in desk.recent(stages=[Stage.PAUSED], limit=40)] == [delivery_id(0)]


def test_the_other_memorys_word_on_an_old_delivery_counts() -> None:
    agent = Remembers(many(1500, Stage.ARRIVED), name="agent")
    desk = Desk(server=Remembers(many(1500, Stage.VERIFIED)), agent=agent)  # type: ignore[arg-type]

    assert desk.recent(stages=[Stage.ARRIVED], limit=40) == []


def test_the_morning_shows_what_has_needed_somebody_for_long() -> None:
    desk = Desk(server=Remembers(many(10_500, Stage.HELD)))  # type: ignore[arg-type]

    morning = desk.morning(now=NOW)

    assert [one.delivery.id for one in morning.needs_you] == [delivery_id(0)]


def test_the_latest_are_listed_newest_first() -> None:
    desk = Desk(server=Remembers(many(3000, Stage.HELD)))  # type: ignore[arg-type]

    found = desk.recent(limit=2)

    assert [one.delivery.id for one in found] == [delivery_id(2999), delivery_id(2998)]


@pytest.mark.parametrize("typed", ["", "  ", "\udcff", "é"])
def test_what_can_begin_no_id_means_no_delivery(typed: str) -> None:
    desk = Desk(server=Remembers({1: Stage.VERIFIED}))  # type: ignore[arg-type]

    with pytest.raises(UnknownDelivery, match="no delivery"):
        desk.find(typed)


class Served(Remembers):
    """A server's memory that notes what it is asked to do."""

    def __init__(self, delivery: Delivery) -> None:
        super().__init__({})
        self._accounts = {delivery.id: Account(delivery, NOW, ("server",))}
        self.asked: list[str] = []

    def starting_with(self, prefix: str) -> list[DeliveryId]:
        return [one for one in self._accounts if one.startswith(prefix)]

    def pause(self, _: str) -> None:
        self.asked.append("pause")

    def resume(self, _: str) -> None:
        self.asked.append("resume")


def test_pausing_what_the_server_has_does_not_fail_for_the_senders_part(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    item = outbox.take(tmp_path / "MR1", "mri", Labels("DEMO", "sub-001", "MR1"), fingerprint="x")
    outbox.move(item.id, Stage.ARRIVED, arrived_at=outbox.clock())
    server = Served(item.delivery)
    desk = Desk(server=server, agent=AgentMemory(outbox))  # type: ignore[arg-type]  # as much of a memory as is asked for

    desk.pause(item.id)
    desk.resume(item.id)

    assert server.asked == ["pause", "resume"]
    with pytest.raises(ConfigError):
        Desk(agent=AgentMemory(outbox)).pause(item.id)
    outbox.close()


def test_a_mistyped_route_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "home")
    desk = Desk(agent=AgentMemory(outbox), targets=frozenset({"mri", "xnat"}))

    with pytest.raises(UnknownDelivery, match=r"no delivery, route or repository 'xnta'; did you mean 'xnat'\?"):
        desk.pause("xnta")
    with pytest.raises(UnknownDelivery, match="no delivery '2026'"):
        desk.pause("2026")
    outbox.close()
