"""Who may import whom, and what importing costs."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "sdmatte": {"sdmatte"},
    "pipeline": {"pipeline", "sdmatte"},
    "jobs": {"jobs", "pipeline", "sdmatte"},
    "benchmarks": {"benchmarks", "jobs", "pipeline", "sdmatte"},
    "tests": {"benchmarks", "jobs", "pipeline", "sdmatte"},
}
"""The project's folders, and those of them whose modules each may import."""

NOT_IN_THE_MODEL = {"ray", "pyarrow"}
SLOW_TO_IMPORT = {"torch", "ray", "diffusers", "transformers"}

JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py") if not path.name.startswith("_"))


def imported_names(source: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the top-level name of every absolute import, `import_module("...")` included."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                modules = [module]
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                modules = [module]
            case _:
                continue
        for module in modules:
            if not module.startswith("."):
                yield node.lineno, module.partition(".")[0]


def imports_below(folder: str) -> list[tuple[str, str]]:
    """Returns (`file:line`, top-level name) of every import in the folder's Python files."""
    return [
        (f"{path.relative_to(ROOT)}:{line}", name)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in imported_names(path.read_text(encoding="utf-8"))
    ]


def test_every_kind_of_import_is_seen() -> None:
    source = """
import numpy, ray.data as data
from pyarrow import parquet
from . import sibling
def later():
    from torch.nn import functional
    importlib.import_module("pipeline.runs")
    import_module("diffusers")
    import_module(".relative", "sdmatte")
    __import__("jobs")
"""
    names = {name for _, name in imported_names(source)}
    assert names == {"numpy", "ray", "pyarrow", "torch", "pipeline", "diffusers", "jobs"}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_one_way(folder: str) -> None:
    imports = imports_below(folder)
    assert imports, f"no imports found below {ROOT / folder}"
    forbidden = MAY_IMPORT.keys() - MAY_IMPORT[folder]
    wrong = [f"{where} imports {name}" for where, name in imports if name in forbidden]
    assert not wrong, f"{folder} may import only {sorted(MAY_IMPORT[folder])} of the project's own"


def test_the_model_stands_without_ray_and_arrow() -> None:
    wrong = [f"{where} imports {name}" for where, name in imports_below("sdmatte") if name in NOT_IN_THE_MODEL]
    assert not wrong


@pytest.mark.parametrize("package", ["sdmatte", "pipeline"])
def test_importing_a_package_is_cheap(package: str) -> None:
    code = f"import sys, {package}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert package in loaded.stdout.split()
    assert SLOW_TO_IMPORT.isdisjoint(loaded.stdout.split())


def test_the_jobs_are_found() -> None:
    assert "label.py" in JOBS


@pytest.mark.parametrize("job", JOBS)
def test_a_job_explains_itself_without_loading_anything_slow(job: str) -> None:
    command = [sys.executable, "-X", "importtime", f"jobs/{job}", "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "usage:" in run.stdout.lower()
    loaded = set(re.findall(r"^import time:.*\| +(\w+)", run.stderr, flags=re.MULTILINE))
    assert "argparse" in loaded or "typer" in loaded, "the list of imports could not be read"
    assert SLOW_TO_IMPORT.isdisjoint(loaded)
