"""What other teams import stays as it is: a change of it is seen, and meant."""

import inspect
from pathlib import Path

import client_core
from client_core import Client, History, SyncClient, SyncHistory, testing

GOLDEN = Path(__file__).parent / "golden" / "client_surface.txt"


def surface() -> str:
    lines = [f"client_core: {name}" for name in sorted(client_core.__all__)]
    lines += [f"client_core.testing: {name}" for name in sorted(testing.__all__)]
    lines.append(f"Client{parameters(Client)}")
    for name in public_names(Client):
        member = inspect.getattr_static(Client, name)
        if isinstance(member, property):
            lines.append(f"Client.{name}")
        else:
            lines.append(f"Client.{name}{parameters(member)}")
    return "\n".join(lines) + "\n"


def parameters(member: object) -> str:
    """Names, kinds and defaults; annotations are mypy's matter."""
    signature = inspect.signature(member)  # type: ignore[arg-type]
    plain = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def public_names(kind: type) -> list[str]:
    return sorted(name for name in dir(kind) if not name.startswith("_"))


def test_the_public_surface_is_as_it_was_pinned() -> None:
    assert surface() == GOLDEN.read_text()


def test_the_sync_client_has_every_method_of_the_client() -> None:
    assert set(public_names(Client)) <= set(public_names(SyncClient)) | {"stats"}
    for name in public_names(SyncClient):
        member = inspect.getattr_static(SyncClient, name)
        if callable(member):
            assert parameters(member) == parameters(getattr(Client, name)), name


def test_the_sync_history_has_every_question_of_the_history() -> None:
    questions = set(public_names(History)) - {"open", "close"}
    assert set(public_names(SyncHistory)) == questions
    for name in questions - {"statements"}:
        member = inspect.getattr_static(SyncHistory, name)
        assert parameters(member) == parameters(getattr(History, name)), name


def test_every_name_that_is_exported_has_a_docstring() -> None:
    for name in client_core.__all__:
        thing = getattr(client_core, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name


def test_the_types_and_the_fake_node_ship_with_the_package() -> None:
    folder = Path(client_core.__file__).parent
    assert (folder / "py.typed").exists()
    settings = (folder.parent / "pyproject.toml").read_text()
    assert '"client_core.testing"' in settings
    assert '"py.typed"' in settings
