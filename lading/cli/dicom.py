"""The DICOM receiver: a port that scanners and archives store to, in front of a watched folder."""

import signal
import threading

import click

from lading.cli import output
from lading.cli.context import App, pass_app
from lading.config import relative_to
from lading.errors import ConfigError


@click.group()
def dicom() -> None:
    """Receive images by DICOM."""


@dicom.command("receive")
@pass_app
def receive(app: App) -> None:
    """Listen as the settings' table [dicom] says, until stopped. Complete studies appear in its folder, for an agent to carry.

    An image is acknowledged when it survives a power cut. Give the agent a watch with source = "dicom-receive".
    """
    try:
        from transport.dicom_receive import Receiver  # noqa: PLC0415 - an extra that only this command needs
        from transport.dicom_settings import receive_config  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigError(
            f"receiving DICOM needs the Python package {exc.name!r}, which is not installed",
            next_command="pip install 'lading[dicom]'",
        ) from exc
    with relative_to(app.config.folder):
        config = receive_config(app.config.dicom)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with Receiver(config) as receiver:
        output.say(f"listening as {config.ae_title} on {config.host}:{receiver.port}, for {config.folder}")
        receiver.serve(stopped.wait)
