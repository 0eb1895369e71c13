"""How the Datastar client changes a page into what a patch says, keeping the elements that are in both.

This is the algorithm of client 1.0.4. Elements that have an id in both are found by it. All others are matched by their
tags, in order, so that as few of those with an id as possible are moved.
"""

import copy
from typing import NamedTuple

import turbohtml

from .attributes import bound_to, is_ignored
from .elements import content_of, elements_in, is_html, with_id

IGNORE = "data-ignore-morph"
PRESERVE = "data-preserve-attr"
SCOPE = "data-scope-children"
_DATA = (turbohtml.Text, turbohtml.Comment)


class MorphError(Exception):
    """The client would raise an error, and leave the page half changed."""


class Outcome(NamedTuple):
    """What a morph has done: copies of new nodes that it put into the page, and form fields with a new value.

    The fields come with the names of the signals that they were bound to.
    """

    copied: list[turbohtml.Node]
    fields: list[tuple[turbohtml.Element, list[str]]]


def morph(
    page: turbohtml.Document,
    pantry: turbohtml.Element,
    target: turbohtml.Element,
    new: list[turbohtml.Node],
    *,
    inner: bool,
) -> "Outcome":
    """Change the target into the new nodes, or what is in it with `inner`.

    The pantry is where an element waits that is in the way now, and may be wanted further on. The page has one, which
    is in it during a morph alone. What is left in it stays there, and is found again by the next morph.

    Raises MorphError where the client would fail.
    """
    parent = target.parent
    if isinstance(parent, turbohtml.Element) and parent.closest(f"[{IGNORE}]") is not None:
        return Outcome([], [])
    return _Morph(page, pantry, target, new).run(inner=inner)


class _Morph:
    """One morph: the ids that are in the page before and after it, and which nodes hold them."""

    def __init__(
        self,
        page: turbohtml.Document,
        pantry: turbohtml.Element,
        target: turbohtml.Element,
        new: list[turbohtml.Node],
    ) -> None:
        self._page = page
        self._target = target
        self._wanted = turbohtml.Element("div")
        self._wanted.extend(new)
        self._pantry = pantry
        children = page.root.children if page.root is not None else ()
        body = next((node for node in children if is_html(node, "body", "frameset")), None)
        if body is None:
            raise MorphError("the page has no body")
        body.insert_after(self._pantry)
        old_ids = [node for node in elements_in(target) if node.attr("id")]
        new_ids = [node for node in elements_in(self._wanted) if node.attr("id")]
        self._stay = _ids_in_both([*old_ids, target], new_ids)
        # The ids that stay, by the nodes that have them or hold what has them.
        self._held: dict[turbohtml.Node, set[str]] = {}
        self._top = target.parent if isinstance(target.parent, turbohtml.Element) else None
        self._old_ids, self._new_ids = old_ids, new_ids
        self._outcome = Outcome([], [])

    def run(self, *, inner: bool) -> Outcome:
        top = self._target if inner else self._top
        self._hold(self._old_ids, top)
        self._hold(self._new_ids, self._wanted)
        self._children(top, self._wanted, None if inner else self._target, self._target.next_sibling)
        self._pantry.extract()
        return self._outcome

    def _hold(self, nodes: list[turbohtml.Element], top: turbohtml.Element | None) -> None:
        for node in nodes:
            id_ = node.attr("id") or ""
            if id_ in self._stay:
                holder: turbohtml.Node | None = node
                while isinstance(holder, turbohtml.Element) and holder != top:
                    self._held.setdefault(holder, set()).add(id_)
                    holder = holder.parent

    def _children(
        self,
        parent: turbohtml.Element | None,
        wanted: turbohtml.Element,
        at: turbohtml.Node | None = None,
        end: turbohtml.Node | None = None,
    ) -> None:
        """Change the nodes from `at`, or the first one in the parent, up to the end."""
        if at is None and parent is not None:
            at = _first(parent)
        for new in list(wanted.children):
            old = self._match(new, at, end) if at is not None and at != end else None
            if old is not None:
                while at is not None and at != old:
                    following = at.next_sibling
                    self._remove(at)
                    at = following
                self._change(old, new)
            else:
                old = self._brought(parent, new, at)
            at = old.next_sibling
        while at is not None and at != end:
            following = at.next_sibling
            self._remove(at)
            at = following

    def _brought(
        self, parent: turbohtml.Element | None, new: turbohtml.Node, before: turbohtml.Node | None
    ) -> turbohtml.Node:
        """Put what has no match into its place: the element with its id from elsewhere in the page, or a new one."""
        if parent is None:
            raise MorphError("an element that it is for is no longer in the page")
        if isinstance(new, turbohtml.Element) and new.attr("id") in self._stay:
            old = self._with_id(new.attr("id") or "")
            self._release(old)
            _move(parent, old, before)
            self._change(old, new)
            return old
        if isinstance(new, turbohtml.Element) and new in self._held:
            made = copy.deepcopy(new)
            for child in [] if is_html(made, "template") else list(made.children):
                child.extract()
            for name in _preserved(new) & {*made.attrs}:
                del made.attrs[name]
            _insert(parent, made, before)
            self._change_content(made, new)
            return made
        copied = copy.deepcopy(new)
        _insert(parent, copied, before)
        if self._is_in_page(parent):
            self._outcome.copied.append(copied)
        return copied

    def _with_id(self, id_: str) -> turbohtml.Element:
        if (node := with_id(self._page, id_)) is None:
            raise MorphError(f"the element with the id {id_!r} is no longer in the page")
        return node

    def _is_in_page(self, node: turbohtml.Element) -> bool:
        return any(each == self._page for each in node.ancestors)

    def _release(self, node: turbohtml.Element) -> None:
        """The places where the node was hold its id no more."""
        id_ = node.attr("id") or ""
        for holder in node.ancestors:
            held = self._held.get(holder)
            if held is not None:
                held.discard(id_)
                if not held:
                    del self._held[holder]

    def _match(
        self, new: turbohtml.Node, at: turbohtml.Node | None, end: turbohtml.Node | None
    ) -> turbohtml.Node | None:
        """Return the node of the page that becomes the new one.

        One with an id in common comes first. Another one with the same tag is taken if no more ids would be displaced
        than the new node has, unless the nodes that follow the new one match first.
        """
        ids = self._held.get(new, set())
        similar: turbohtml.Node | None = None
        following = new.next_sibling
        matches_of_following = displaced = 0
        while at is not None and at != end:
            held = self._held.get(at, set())
            if _is_similar(at, new):
                if ids & held:
                    return at
                if similar is None and not held:
                    if not ids:
                        return at
                    similar = at
            displaced += len(held)
            if displaced > len(ids):
                break
            if similar is None and matches_of_following < 2 and following is not None and _is_similar(at, following):
                matches_of_following += 1
                following = following.next_sibling
            at = at.next_sibling
        return similar

    def _remove(self, node: turbohtml.Node) -> None:
        if node in self._held:
            _move(self._pantry, node, None)
        else:
            node.extract()

    def _change(self, old: turbohtml.Node, new: turbohtml.Node) -> None:
        """Give a node the attributes, the text and the children of the new one."""
        if isinstance(old, turbohtml.Element) and isinstance(new, turbohtml.Element):
            if _has(old, IGNORE) and _has(new, IGNORE):
                return
            if _is_new_value(old, new):
                field = old.closest("select") if is_html(old, "option") else old
                if field is not None and not is_ignored(field):
                    self._outcome.fields.append((field, bound_to(field)))
            _change_attributes(old, new)
            self._change_content(old, new)
        elif isinstance(old, _DATA) and isinstance(new, _DATA) and old.data != new.data:
            old.data = new.data

    def _change_content(self, old: turbohtml.Element, new: turbohtml.Element) -> None:
        if is_html(old, "template") and is_html(new, "template"):
            content = content_of(old)
            for child in list(content.children):
                child.extract()
            # The client sets its innerHTML, which is parsed once more.
            for child in list(turbohtml.parse_fragment(new.inner_html, "template", positions=False).children):
                content.append(child)
        elif not _is_equal(old, new):
            self._children(old, new)


def _is_new_value(old: turbohtml.Element, new: turbohtml.Element) -> bool:
    preserved = _preserved(new)
    names: tuple[str, ...] = ()
    if is_html(old, "input") and is_html(new, "input") and (new.attr("type") or "").lower() != "file":
        if old.attr("value") != new.attr("value") and "value" not in preserved:
            return True
        names = ("checked",)
    elif is_html(old, "textarea") and is_html(new, "textarea"):
        return old.text != new.text
    elif is_html(old, "option") and is_html(new, "option"):
        names = ("selected",)
    return any(_has(old, name) != _has(new, name) and name not in preserved for name in names)


def _preserved(new: turbohtml.Element) -> set[str]:
    return {*(new.attr(PRESERVE) or "").split(" ")}


def _change_attributes(old: turbohtml.Element, new: turbohtml.Element) -> None:
    preserved = _preserved(new) | ({SCOPE} if _has(old, SCOPE) else set())
    for name in new.attrs:
        value = new.attr(name) or ""
        if name not in preserved and old.attr(name) != value:
            old.attrs[name] = value
    for name in list(old.attrs):
        if name not in preserved and name not in new.attrs:
            del old.attrs[name]


def _ids_in_both(old: list[turbohtml.Element], new: list[turbohtml.Element]) -> set[str]:
    """Return the ids that are on an element of the same tag before and after, and are not used twice."""
    tags: dict[str, str] = {}
    twice = set()
    for node in old:
        id_ = node.attr("id") or ""
        if id_ in tags:
            twice.add(id_)
        tags.setdefault(id_, _tag_name(node))
    both: set[str] = set()
    for node in new:
        id_ = node.attr("id") or ""
        if id_ in both:
            twice.add(id_)
        elif tags.get(id_) == _tag_name(node):
            both.add(id_)
    return both - twice - {""}


def _is_similar(old: turbohtml.Node, new: turbohtml.Node) -> bool:
    if type(old) is not type(new):
        return False
    if not isinstance(old, turbohtml.Element) or not isinstance(new, turbohtml.Element):
        return True
    return _tag_name(old) == _tag_name(new) and (not old.attr("id") or old.attr("id") == new.attr("id"))


def _is_equal(old: turbohtml.Node, new: turbohtml.Node) -> bool:
    """As a browser's isEqualNode(), which does not look into templates."""
    if type(old) is not type(new):
        return False
    if isinstance(old, turbohtml.Element) and isinstance(new, turbohtml.Element):
        if old.tag != new.tag or old.namespace != new.namespace or len(old.attrs) != len(new.attrs):
            return False
        if any(old.attr(name) != new.attr(name) for name in old.attrs):
            return False
        if is_html(old, "template"):
            return True
        ours, theirs = old.children, new.children
        return len(ours) == len(theirs) and all(map(_is_equal, ours, theirs))
    return getattr(old, "data", None) == getattr(new, "data", None)


def _tag_name(node: turbohtml.Element) -> str:
    return node.tag.upper() if node.namespace is turbohtml.Namespace.HTML else node.tag


def _has(node: turbohtml.Node, name: str) -> bool:
    return isinstance(node, turbohtml.Element) and name in node.attrs


def _first(node: turbohtml.Node) -> turbohtml.Node | None:
    return node.children[0] if len(node.children) else None


def _move(parent: turbohtml.Element, node: turbohtml.Node, before: turbohtml.Node | None) -> None:
    """Move a node within the page. Browsers do not move one into itself, or to where there is no page."""
    holders = [parent, *parent.ancestors]
    if node in holders or [*node.ancestors][-1:] != holders[-1:]:
        raise MorphError("an element is to be moved into itself, or out of the page")
    _insert(parent, node, before)


def _insert(parent: turbohtml.Element, node: turbohtml.Node, before: turbohtml.Node | None) -> None:
    if before is not None and before == node:
        before = node.next_sibling
    if before is None:
        parent.append(node)
    else:
        before.insert_before(node)
