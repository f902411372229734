"""What `iomt init DIR` writes.

DIR/iomt.toml         the configuration, commented
DIR/contracts/*.toml  the example contracts, to be read and changed
DIR/data/keys/        log.key, master.key, access.token (0600)
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from edge import config
from edge.errors import ConfigurationError
from edge.store.vault import create_keys, sync_directory

CONFIG_NAME = "iomt.toml"


def initialise(directory: Path, origin: str, text: str | None = None) -> Path:
    """Write everything; the configuration's path. Overwrites nothing.

    `text` is the configuration to write, the commented template where it is None.
    ConfigurationError for an unfit origin, or where something stands already.
    """
    file = directory / CONFIG_NAME
    if file.exists():
        raise ConfigurationError([f"{file}: exists already"])
    contracts = directory / "contracts"
    contracts.mkdir(parents=True, exist_ok=True)
    if text is None:
        text = config.TEMPLATE.format(path=file, origin=origin)
    config.parse(text, str(file), directory)  # a mistake is found before any key is
    (directory / "data").mkdir(mode=0o700, exist_ok=True)
    create_keys(directory / "data" / "keys")
    for one in resources.files("edge.contracts").joinpath("library").iterdir():
        target = contracts / one.name
        if one.name.endswith(".toml") and not target.exists():
            target.write_bytes(one.read_bytes())
    file.write_text(text)
    for one in (directory, directory.absolute().parent):  # the names of what is new
        sync_directory(one)
    return file
