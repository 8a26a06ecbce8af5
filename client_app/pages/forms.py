"""A form for each operation: fields checked first, a confirmation, then the reply."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nicegui import ui

from client_app.idempotency import key_of
from client_app.pages.operations import OPERATIONS, Field, body_of
from client_app.pages.parts import box, button, text
from client_app.pages.sending import Sending, Sent
from client_app.pages.texts import operation_name
from client_app.pages.visit import Visit
from client_app.schemas import Json


@dataclass(frozen=True)
class FormOptions:
    """How a form is filled: `values`, and `fixed` ones that can't be changed.

    `operator`: the console, which has all fields, and links. `on_done` gets the reply's content.
    """

    values: dict[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    assets: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    operator: bool = False
    on_done: Callable[[Json], Any] | None = None


class OperationForm:
    """One operation's form, and below it what became of it."""

    def __init__(self, visit: Visit, name: str, options: FormOptions) -> None:
        self._visit = visit
        self._name = name
        self._options = options
        self._operation = OPERATIONS[name]
        self._fields = [
            each for each in self._operation.fields if options.operator or not each.operator
        ]
        self._controls: dict[str, Any] = {}
        self._busy = False
        form = box("form", "operation", data_operation=name, novalidate=True)
        form.on("submit.prevent", self._submit, args=[])
        with form:
            with box("div", "fields"):
                for each in self._fields:
                    self._controls[each.name] = self._control(each)
            with box("div", "buttons"):
                kind = "danger" if self._operation.dangerous else ""
                self._button = button(operation_name(name), kind=kind, type="submit")
            self._sending = Sending(
                visit,
                box("div", "reply", aria_live="polite"),
                operator=options.operator,
                on_busy=self._busy_now,
                on_done=self._done,
            )

    def focus(self, name: str) -> None:
        """Put the cursor into a field."""
        self._controls[name].run_method("focus")

    def _control(self, each: Field) -> Any:
        value = self._options.values.get(each.name, each.value)
        if each.kind == "check":
            return ui.checkbox(each.label, value=bool(value)).props(f"data-name={each.name}")
        choices = self._options.assets if each.kind == "asset" else self._options.accounts
        if each.kind == "asset" or (each.own and choices):
            chosen = str(value) if str(value) in choices else next(iter(choices), None)
            made: Any = ui.select(choices, label=each.label, value=chosen)
        else:
            made = ui.input(
                each.label, value="" if value is None else str(value), validation=each.wrong
            ).without_auto_validation()
            made.on_value_change(lambda: setattr(made, "error", None))
            mode = {"amount": "decimal", "text": "text"}.get(each.kind, "numeric")
            made.props(f"maxlength={each.characters_max} autocomplete=off spellcheck=false")
            made.props["inputmode"] = "text" if "-" in each.hint else mode
            if each.name in self._options.fixed:
                made.props("readonly")
        made.props(f"name={each.name} outlined dense stack-label hide-bottom-space")
        return made

    async def _submit(self) -> None:
        raw = {name: control.value for name, control in self._controls.items()}
        if self._busy or not self._check(raw):
            return
        body = body_of(self._fields, raw)
        self._busy = True
        try:
            if await confirmed(self._operation.asks(body), dangerous=self._operation.dangerous):
                caller = self._visit.caller
                name = caller.name if caller is not None else ""
                key = key_of(self._visit.site.new_id())
                await self._sending.send(Sent(name, self._name, body, key))
        finally:
            self._busy = False

    def _check(self, raw: dict[str, Any]) -> bool:
        good = True
        for each in self._fields:
            control = self._controls[each.name]
            if isinstance(control, ui.input):
                control.error = each.wrong(raw[each.name])
                good = good and control.error is None
            elif isinstance(control, ui.select):
                good = good and raw[each.name] in control.options
            else:
                good = good and each.wrong(raw[each.name]) is None
        return good

    def _busy_now(self, busy: bool) -> None:
        if not self._button.is_deleted:
            self._button.set_enabled(not busy)

    def _done(self, content: Json) -> Any:
        if "amount" in self._controls and not self._button.is_deleted:
            self._controls["amount"].value = ""  # a second one is typed anew
        return None if self._options.on_done is None else self._options.on_done(content)


async def confirmed(question: str, *, dangerous: bool = False) -> bool:
    """Ask before something is done for good."""
    with ui.dialog() as dialog, box("div", "card confirm"):
        dialog.props["aria-label"] = "Confirm"
        text("p", question)
        with box("div", "buttons"):
            button("Cancel", lambda: dialog.submit(False), "plain")
            button(
                "Confirm",
                lambda: dialog.submit(True),
                "danger" if dangerous else "",
                data_autofocus=True,
            )
    try:
        return await dialog is True
    finally:
        dialog.delete()
