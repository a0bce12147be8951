"""Tests of consensus.worlds: the faces have what the client has."""

from __future__ import annotations

import inspect
import os
from itertools import count
from typing import TYPE_CHECKING, Any, get_overloads

import pytest
from twisted.internet.defer import Deferred

from consensus import aio, blocking, worlds
from consensus.aio import AsyncioClient
from consensus.blocking import BlockingClient
from consensus.client import Client
from tests.support.tally import Share, TallyClient

if TYPE_CHECKING:
    from collections.abc import Callable

#: What is only for those who make clients of clients.
INSIDE = {"connect", "from_config", "repeat"}

FACES = [AsyncioClient, BlockingClient]


def methods(cls: type) -> dict[str, Callable[..., Any]]:
    """Return the public methods of *cls*."""
    return {
        name: value
        for name, value in vars(cls).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


def shape(function: Callable[..., Any], *, result: str = "") -> list[str]:
    """Return how *function* is called, and its *result* if not its own."""
    signature = inspect.signature(function)
    told = [str(each) for name, each in signature.parameters.items() if name != "self"]
    return [*told, result or str(signature.return_annotation)]


def inner(annotation: str) -> str:
    """Return what a Deferred of this *annotation* gives."""
    return annotation.removeprefix("Deferred[").removesuffix("]")


class StepTests:
    """The faces of the client are written by hand, and keep step with it."""

    @pytest.mark.parametrize("face", FACES)
    def test_signatures(self, face: type) -> None:
        """Each call takes what the client's takes, and gives what it gives."""
        theirs, ours = methods(face), methods(Client)
        waited = {
            name
            for name, value in ours.items()
            if name not in INSIDE
            and str(inspect.signature(value).return_annotation).startswith("Deferred")
        }
        assert waited | {"session", "use", "call"} == set(theirs)
        for name in waited:
            versions = get_overloads(theirs[name]) or [theirs[name]]
            of_client = get_overloads(ours[name]) or [ours[name]]
            for version, original in zip(versions, of_client, strict=True):
                given = inspect.signature(original).return_annotation
                assert shape(version) == shape(original, result=inner(given)), name

    @pytest.mark.parametrize("module", [aio, blocking])
    @pytest.mark.parametrize("name", ["connect", "from_config"])
    def test_how_they_are_made(self, module: Any, name: str) -> None:
        """As the client is, but that they find their reactor."""
        ours = dict(inspect.signature(getattr(Client, name)).parameters)
        theirs = dict(inspect.signature(getattr(module, name)).parameters)
        del ours["reactor"]
        assert [*ours] == [*theirs] or name == "from_config"
        for key in ours.keys() & theirs.keys():
            assert str(ours[key]) == str(theirs[key])

    @pytest.mark.parametrize("face", FACES)
    def test_types(self, face: type) -> None:
        """No call takes or gives anything."""
        for name, method in methods(face).items():
            if name not in {"use", "call"}:
                assert "Any" not in " ".join(shape(method)), name


class NeedsFaceTests:
    """What gets a face, of all that a call may give."""

    @pytest.mark.parametrize("kind", [int, dict, str, ValueError, type(None), list])
    def test_values(self, kind: type) -> None:
        """Values are given as they are."""
        assert not worlds.needs_face(kind)

    @pytest.mark.parametrize("kind", [Client, TallyClient, Share])
    def test_objects_with_calls(self, kind: type) -> None:
        assert worlds.needs_face(kind)

    def test_annotations_that_are_no_text(self) -> None:
        """They are looked at as well."""

        class Eager:
            def call(self) -> Any:
                """Return what the annotation below says."""

        Eager.call.__annotations__["return"] = Deferred[int]
        assert worlds.needs_face(Eager)


class Here:
    """A world in which there is no other thread."""

    def at_once(self, work: Callable[[], Any]) -> Any:
        """Do *work*."""
        return work()


class OwnTests:
    """What each process has its own of."""

    def test_it_is_made_once(self) -> None:
        numbers = count(1)
        own = worlds.Own(Here(), lambda: next(numbers))
        assert own.peek() is None
        assert own.get() == own.get() == own.peek() == 1

    def test_another_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It makes its own; what was given to another is refused."""
        own = worlds.Own(Here(), object)
        given = worlds.Given(Here(), object())
        first = own.get()
        given.get()
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert own.peek() is None
        assert own.get() is not first
        with pytest.raises(RuntimeError, match="has to make the call again"):
            given.get()
