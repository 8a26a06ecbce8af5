"""What the pages are made of. Text only ever becomes text nodes: nothing is read as HTML."""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from client_app.pages.calls import Refusal
from client_app.pages.texts import NONE

_TIME_FORM: Final = (
    "{year:'numeric',month:'short',day:'numeric',hour:'2-digit',minute:'2-digit',"
    "second:'2-digit',hour12:false}"
)


def box(tag: str, classes: str = "", **attributes: Any) -> ui.element:
    """An element that others stand in; `data_x` is the attribute data-x."""
    element = ui.element(tag)
    _dress(element, classes, attributes)
    return element


def text(tag: str, shown: str, classes: str = "", **attributes: Any) -> TextElement:
    """An element with a text."""
    element = TextElement(tag=tag, text=shown)
    _dress(element, classes, attributes)
    return element


def _dress(element: ui.element, classes: str, attributes: dict[str, Any]) -> None:
    if classes:
        element.classes(classes)
    for name, value in attributes.items():
        if value is not None:
            element.props[name.rstrip("_").replace("_", "-")] = value


def link(shown: str, path: str, classes: str = "", **attributes: Any) -> TextElement:
    """A link to another view of this page."""
    return text("a", shown, classes, href=path, **attributes)


def local_time(ns: int, tag: str = "span", classes: str = "") -> ui.element:
    """A time, ns since the Unix epoch, as it is where the browser is."""
    if not ns:
        return text(tag, NONE, classes)
    script = f"new Date({int(ns) // 1_000_000}).toLocaleString(undefined,{_TIME_FORM})"
    return box(tag, classes, **{":textContent": script})


def set_text(element: TextElement, shown: str, *, flash: bool = False) -> None:
    """Change a text if it differs, and mark it for a moment."""
    if element.text == shown:
        return
    if flash and element.text:
        again = "changed" in element.classes
        element.classes(remove="changed changed-again", add="changed-again" if again else "changed")
    element.set_text(shown)


def card(title: str = "") -> ui.element:
    """A section; what belongs to it is made inside."""
    section = box("section", "card")
    if title:
        with section:
            text("h2", title)
    return section


def empty(title: str, said: str) -> ui.element:
    """What stands where there is nothing; what leads on is made inside."""
    with box("div", "empty") as element:
        text("strong", title)
        text("p", said)
    return element


def loading(said: str = "Loading…") -> TextElement:
    """What stands until an answer comes."""
    return text("div", said, "empty quiet", role="status")


def error_box(error: Exception, again: Callable[[], Any] | None = None) -> ui.element:
    """What went wrong, and a way to try it again."""
    title, detail, code = "That didn't work", "Try again; the app's log says more.", ""
    if isinstance(error, Refusal):
        title, detail, code = error.title, error.detail, error.code
    with box("div", "notice bad", role="alert") as element:
        text("strong", title)
        text("p", detail)
        if code:
            text("p", code, "quiet small")
        if again is not None:
            button("Try again", again)
    return element


def button(
    shown: str, on_click: Callable[..., Any] | None = None, kind: str = "", **attributes: Any
) -> ui.button:
    """A button; `kind` is plain, danger, small, or several of them."""
    kinds = kind.split()
    color = "negative" if "danger" in kinds else "primary"
    made = ui.button(shown, on_click=on_click, color=color).props("no-caps unelevated")
    if "plain" in kinds:
        made.props("outline")
    if "small" in kinds:
        made.props("dense").classes("small-button")
    _dress(made, "", attributes)
    return made


class Column(NamedTuple):
    """A column's title, and the classes of its cells."""

    title: str
    classes: str = ""


def table(columns: Iterable[Column], caption: str, kind: str = "") -> ui.element:
    """A table in a box of its own, in which it may scroll. Rows are made inside."""
    with box("div", "scroll", tabindex="0", role="region", aria_label=caption), box("table", kind):
        text("caption", caption, "hidden")
        with box("thead"), box("tr"):
            for column in columns:
                text("th", column.title, column.classes, scope="col")
        return box("tbody")


def fact(title: str, shown: str = "", **attributes: Any) -> TextElement:
    """One line of a list of facts, inside `box("dl", "facts")`."""
    text("dt", title)
    return text("dd", shown, **attributes)


def account_link(account: int | str) -> ui.element:
    """Where an account's page is; 0 is outside the ledger."""
    if str(account) == "0":
        return text("span", "outside", "quiet")
    return link(f"#{account}", f"/account/{account}")


_STATES: Final = {"closed": "badge bad", "locked": "badge warn"}


def state_badge(state: str) -> TextElement:
    """Whether an account is open."""
    return text("span", state, _STATES.get(state, "badge"))


def set_state(badge: TextElement, state: str) -> None:
    """Change what a badge says."""
    if badge.text != state:
        badge.classes(replace=_STATES.get(state, "badge"))
        badge.set_text(state)


class Tabs:
    """A row of buttons, of which one is chosen, and what belongs to it below."""

    def __init__(
        self,
        label: str,
        names: dict[str, str],
        make: Callable[[str], Any],
        chosen: str = "",
        on_choice: Callable[[str], Any] | None = None,
    ) -> None:
        """`names` has a title for each; `make` fills the panel for one."""
        self._make = make
        self._on_choice = on_choice
        with box("div"):
            with box("div", "tabs", role="group", aria_label=label):
                self._buttons = {
                    name: text("button", title, "tab", type="button", data_name=name).on(
                        "click", self._chooser(name), args=[]
                    )
                    for name, title in names.items()
                }
            self._panel = box("div", "panel")
        self.choose(chosen if chosen in names else next(iter(names)))

    def _chooser(self, name: str) -> Callable[[], None]:
        def choose() -> None:
            self.choose(name)
            if self._on_choice is not None:
                self._on_choice(name)

        return choose

    def choose(self, name: str) -> None:
        """Show what belongs to one of the names."""
        for other, made in self._buttons.items():
            made.props["aria-pressed"] = "true" if other == name else "false"
        self._panel.clear()
        with self._panel:
            self._make(name)
