"""Whose delivery is it? From the labels and the sender to a mail address, by the settings' table of people."""

import re
from collections.abc import Iterator

from lading.config import PeopleConfig
from lading.delivery import Delivery
from lading.errors import ConfigError

# Stricter than the standard: what comes out of a label must not become a second recipient, an option, or a header.
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}")
_FIELDS = ("sender", "project", "participant", "session")
NO_PERSON = ("", "dropped")
"""Senders that stand for nobody: a folder dropped into the inbox has none."""


def is_address(text: str) -> bool:
    """Whether `text` is one plain mail address."""
    return _ADDRESS.fullmatch(text) is not None


def demand_addresses(addresses: tuple[str, ...], where: str) -> None:
    """Raises ConfigError naming the first that is no address."""
    for address in addresses:
        if not is_address(address):
            raise ConfigError(f"{where}: {address!r} is not a mail address", next_command="lading doctor")


class People:
    """The table of people. Raises ConfigError for an address or a template that cannot be used."""

    def __init__(self, config: PeopleConfig) -> None:
        demand_addresses(tuple(config.addresses.values()), "people.addresses")
        self._addresses = config.addresses
        self._template = config.template
        if config.template:
            try:
                filled = config.template.format(**dict.fromkeys(_FIELDS, "x"))
            except (KeyError, IndexError, ValueError, AttributeError) as exc:
                raise ConfigError(
                    f"people.template = {config.template!r} cannot be filled in; it may name "
                    + ", ".join(f"{{{name}}}" for name in _FIELDS),
                    next_command="lading doctor",
                ) from exc
            demand_addresses((filled,), "people.template")

    def address_of(self, delivery: Delivery) -> str:
        """Whom to write to about the delivery; "" when nobody is known."""
        for name in _names(delivery):
            if name in self._addresses:
                return self._addresses[name]
        return self._filled(delivery) if self._template else ""

    def _filled(self, delivery: Delivery) -> str:
        values = {"sender": _user(delivery.sender), **delivery.labels.as_dict()}
        used = [name for name in _FIELDS if f"{{{name}" in self._template]
        # A seal is a stranger's text: a name that is no plain word addresses nobody.
        if any(values[name] in NO_PERSON or not _WORD.fullmatch(values[name]) for name in used):
            return ""
        filled = self._template.format(**values)
        return filled if is_address(filled) else ""


def _names(delivery: Delivery) -> Iterator[str]:
    yield from (delivery.sender, _user(delivery.sender), delivery.labels.participant, delivery.labels.project)


def _user(sender: str) -> str:
    return sender.partition("@")[0]
