"""Nothing that is shipped evaluates what it reads, or unpickles it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [
    path
    for room in ("consensus", "adapters", "contrib", "twisted")
    for path in sorted((ROOT / room).rglob("*.py"))
]

# The test kit sends machines between two processes of its own; no server has it.
EXEMPT = {ROOT / "consensus" / "testing" / "determinism_run.py"}

BUILT_IN = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "jsonpickle"}
UNSAFE_YAML = {
    *("load", "load_all", "full_load", "full_load_all"),
    *("unsafe_load", "unsafe_load_all"),
}


def _callee(call: ast.Call) -> str:
    """Return what is called, with its module if that is written there."""
    return ast.unparse(call.func)


def _faults_of_call(call: ast.Call) -> list[str]:
    callee = _callee(call)
    module, _, name = callee.rpartition(".")
    is_evil = (not module and name in BUILT_IN) or (
        (module, name) in {("os", "system"), ("os", "popen")}
        or (module == "yaml" and name in UNSAFE_YAML)
    )
    has_shell = any(
        each.arg == "shell" and getattr(each.value, "value", True) is not False
        for each in call.keywords
    )
    return [callee] if is_evil or has_shell else []


def faults(source: str) -> list[str]:
    """Return what *source* does that nothing shipped may."""
    found: list[str] = []
    for each in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(each, ast.Import):
            names = [alias.name for alias in each.names]
        elif isinstance(each, ast.ImportFrom):
            names = [each.module or ""]
        elif isinstance(each, ast.Call):
            found += _faults_of_call(each)
        found += [name for name in names if name.partition(".")[0] in MODULES]
    return found


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from marshal import loads", "eval('1')", "exec(x)"),
        *("yaml.load(x)", "yaml.unsafe_load(x)", "os.system(x)", "run(x, shell=True)"),
        "import shelve as s",
    ],
)
def test_what_is_found(source: str) -> None:
    """Each way that there is."""
    assert faults(source)


def test_what_is_harmless() -> None:
    """Other functions may have the same names."""
    assert not faults("re.compile(x); yaml.safe_load(x); run(x, shell=False)")


def test_nothing_is_evaluated() -> None:
    """No shipped module does any of it."""
    assert SOURCES
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in SOURCES
        if path not in EXEMPT and (wrong := faults(path.read_text(encoding="utf-8")))
    }
    assert found == {}
