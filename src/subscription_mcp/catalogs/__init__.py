"""The catalogs that ship with the package, and the way from a name or a path to a catalog."""

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.catalog_file import CatalogError, parse_catalog

_SUFFIX = ".toml"


def shipped_names() -> tuple[str, ...]:
    """The names of the shipped catalogs, in alphabetical order."""
    names = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)))


def shipped_text(name: str) -> str:
    """The file of a shipped catalog, which explains itself."""
    return files(__name__).joinpath(name + _SUFFIX).read_text("utf-8")


def load_catalog(name_or_path: str) -> Catalog:
    """The shipped catalog of that name, else the one in the file of that path.

    Raises CatalogError: no such catalog or file, not readable, or something wrong inside.
    """
    if name_or_path in shipped_names():
        return parse_catalog(shipped_text(name_or_path), source=name_or_path + _SUFFIX)
    try:
        # Some editors begin a file with a byte order mark; TOML does not allow it.
        text = Path(name_or_path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise CatalogError(name_or_path, "", "is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise _unreadable(name_or_path, error) from None
    return parse_catalog(text, source=name_or_path)


def _unreadable(name_or_path: str, error: Exception) -> CatalogError:
    if not isinstance(error, FileNotFoundError):
        reason = error.strerror if isinstance(error, OSError) else None
        return CatalogError(name_or_path, "", f"cannot be read: {reason or 'not a path'}")
    nearest = get_close_matches(Path(name_or_path).name.removesuffix(_SUFFIX), shipped_names(), n=1)
    shipped = ", ".join(shipped_names())
    return CatalogError(
        name_or_path, "", f"no such file, and no shipped catalog ({shipped})", nearest[0] if nearest else None
    )
