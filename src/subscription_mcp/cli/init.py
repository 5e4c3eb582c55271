"""`init`: a configuration and a catalog to start a product of one's own from."""

import os
import re
import shlex
import shutil
import sys
from importlib.resources import files
from pathlib import Path

import click

from subscription_mcp.catalogs import shipped_names, shipped_text
from subscription_mcp.cli.common import tell
from subscription_mcp.domain.identifiers import is_name
from subscription_mcp.domain.wording import list_text
from subscription_mcp.settings import DEFAULT_NAME, SettingsError

CONFIGURATION, CATALOG = "subscription.toml", "catalog.toml"
TEMPLATES = files("subscription_mcp.cli") / "templates"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@click.option(
    "--catalog",
    type=click.Choice(shipped_names()),
    help="Begin with a copy of this shipped catalog; else with one that explains every key.",
)
def init(folder: Path, catalog: str | None) -> None:
    """Write a subscription.toml and a catalog.toml to start from into a folder, this one unless named. Overwrites nothing."""
    texts = {
        CONFIGURATION: (TEMPLATES / CONFIGURATION).read_text("utf-8"),
        CATALOG: _own_catalog(folder) if catalog is None else shipped_text(catalog),
    }
    paths = [folder / name for name in texts]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if os.path.lexists(path):
                raise FileExistsError(None, None, path)
        for path, text in zip(paths, texts.values(), strict=True):
            _write_new(path, text)
    except FileExistsError as error:
        raise SettingsError(
            f"{error.filename} is there already, and init overwrites nothing. Name another folder, or move it away."
        ) from None
    except OSError as error:
        raise SettingsError(f"{error.filename} cannot be written ({error.strerror}).") from None
    program = [DEFAULT_NAME] if shutil.which(DEFAULT_NAME) else [sys.executable, "-m", "subscription_mcp"]
    ours = shlex.join([*program, "--config", str(paths[0])])
    tell(
        f"Wrote {list_text([str(path) for path in paths], 'and')}. Next, to check, to call and to serve:\n\n"
        f"  {ours} doctor\n"
        f"  {ours} token mint --user me\n"
        f"  {ours} serve"
    )


def _own_catalog(folder: Path) -> str:
    """The template, named like its folder, so that what is made of it later is the same catalog to a ledger."""
    text = (TEMPLATES / CATALOG).read_text("utf-8")
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return text.replace('name = "my-product"', f'name = "{name}"', 1) if is_name(name) else text


def _write_new(path: Path, text: str) -> None:
    """Write a file that was not there, for its owner only: a secret may be put into it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
