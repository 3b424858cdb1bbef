"""Arrows run one way: see the picture in CONTRIBUTING.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "blockwise_lora"

# Each package of the library and what it may import from its sisters.
ARROWS = {
    "errors": set(),
    "parameters": {"errors"},
    "atomic": {"errors"},
    "lettering": set(),
    "blocks": set(),
    "adapters": {"blocks"},
    "imagesets": set(),
    "diffusion": {"blocks", "adapters", "imagesets"},
    "judges": {"imagesets"},
    "report": {"blocks", "judges", "imagesets", "sweep"},
    "sweep": {"blocks", "adapters", "diffusion", "imagesets", "judges"},
    "emoji": {"blocks", "adapters", "diffusion", "imagesets", "judges", "report"},
}
EVERYWHERE = {"errors", "parameters", "atomic", "lettering"}
ABOVE = {"kedro", "kedro_datasets", "kedro_viz", "mlflow", "dvc", "click"}
UPPER = {"cli", "commands", "datasets", "hooks", "pipeline_registry", "pipelines", "processes"}
UPPER |= {"settings"}
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "peft", "open_clip", "timm", "mlflow"}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imports(path: Path, top_level_only: bool = False, text: str | None = None) -> set[str]:
    """Dotted names that a module imports, relative ones resolved."""
    tree = ast.parse(path.read_text(encoding="utf-8") if text is None else text)
    inner = set()
    if top_level_only:
        functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.Lambda))
        inner = {child for function in functions for child in ast.walk(function)}
    package = ("blockwise_lora", *path.relative_to(SOURCE).parent.parts)
    found = set()
    for node in ast.walk(tree):
        if node in inner:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            stem = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*stem, *((node.module,) if node.module else ())))
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def part(path: Path) -> str:
    """The package, or the module right below blockwise_lora, that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def sisters(path: Path) -> set[str]:
    own = {name.split(".")[1] for name in imports(path) if name.startswith("blockwise_lora.")}
    return own - {part(path), "__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_imports_follow_the_arrows(path):
    if part(path) in ARROWS:
        assert sisters(path) <= ARROWS[part(path)] | EVERYWHERE
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & ABOVE, "the library knows nothing of Kedro, MLflow and DVC"
    if part(path) in UPPER:
        roots = {name.split(".")[0] for name in imports(path, top_level_only=True)}
        assert not roots & HEAVY, "import inside the function: `kedro registry list` must be fast"


def test_every_package_has_its_place():
    above = UPPER | {"__init__", "__main__", "recording", "tracking"}
    assert {part(path) for path in modules()} <= above | set(ARROWS)


def test_a_forbidden_import_would_be_seen():
    path = SOURCE / "pipelines" / "curation" / "imagined.py"
    text = "from ...judges import clip\nimport torch.nn\ndef f():\n    import timm\n"
    assert imports(path, text=text) == {"blockwise_lora.judges.clip", "torch.nn", "timm"}
    seen = imports(path, top_level_only=True, text=text)
    assert seen == {"blockwise_lora.judges.clip", "torch.nn"}


def test_the_registry_loads_nothing_heavy():
    code = (
        "import sys; from blockwise_lora.pipeline_registry import register_pipelines;"
        "import blockwise_lora.settings; register_pipelines();"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
