"""A Document agrees with Chromium and the real client, on pages and patches made at random."""

import json

import turbohtml

from ds_broadcaster.testing.dom import Document
from ds_broadcaster.testing.dom.elements import content_of, root_of
from tests.fakes import FACTOR
from tests.harness.requirements import require_client_bundle
from tests.testing.pages import WRITTEN, Maker

CASES = 1000 * FACTOR
SEED = 11

START = """async client => {
    const url = URL.createObjectURL(new Blob([client], {type: 'text/javascript'}));
    // The client never empties the element in which it keeps others during a morph.
    const create = document.createElement, pantries = [];
    document.createElement = function (...args) { pantries.push(create.apply(this, args)); return pantries.at(-1) };
    window.client = await import(url);
    document.createElement = create;
    window.ran = name => window.names.push(name);
    const spaces = {'http://www.w3.org/1999/xhtml': 'html', 'http://www.w3.org/2000/svg': 'svg',
        'http://www.w3.org/1998/Math/MathML': 'mathml'};
    const attributes = node => [...node.attributes].map(each => [each.name.toLowerCase(), each.value])
        .filter(([name]) => name != 'value' || !node.hasAttribute('data-bind')).sort();
    const inside = node => [...(node instanceof HTMLTemplateElement ? node.content : node).childNodes].map(told);
    const told = node => node.nodeType == 3 ? node.data
        : node.nodeType == 8 ? ['#', node.data]
        : [spaces[node.namespaceURI], node.localName, attributes(node), ...inside(node)];
    window.run = async ({page, events}) => {
        const {root} = window.client, html = document.documentElement;
        window.names = [];
        const fresh = new DOMParser().parseFromString(page, 'text/html');
        // The client stops what elements follow when it sees them leave the page.
        html.append(...pantries);
        html.replaceChildren();
        await null;
        pantries.forEach(each => each.replaceChildren());
        for (const name of Object.keys(root)) if (!'km'.includes(name)) delete root[name];
        for (const {name} of [...html.attributes]) html.removeAttribute(name);
        await null;
        for (const {name, value} of fresh.documentElement.attributes) html.setAttribute(name, value);
        await null;
        html.replaceChildren(fresh.head, fresh.body);
        await null;
        for (const [type, argsRaw] of events) {
            document.dispatchEvent(new CustomEvent('datastar-fetch', {detail: {type, el: document.body, argsRaw}}));
            await null;
        }
        await null;
        return {page: told(html), signals: JSON.parse(JSON.stringify(root)), scripts: window.names};
    };
    window.runAll = async cases => {
        const all = [];
        for (const each of JSON.parse(cases)) all.push(await run(each));
        return JSON.stringify(all);
    };
    await new Promise(done => setTimeout(done, 20));
}"""


def told(node):
    """Return a tree as the browser's is told."""
    if isinstance(node, turbohtml.Text):
        return node.data
    if isinstance(node, turbohtml.Comment):
        return ["#", node.data]
    inside = content_of(node).children if node.tag == "template" and node.namespace.name == "HTML" else node.children
    attrs = sorted(
        [name.lower(), node.attr(name)] for name in node.attrs if name != "value" or "data-bind" not in node.attrs
    )
    return [node.namespace.name.lower(), node.tag, attrs, *map(told, inside)]


def outcome(case):
    document = Document(case["page"])
    for type_, fields in case["events"]:
        data = "\n".join(f"{name} {line}" for name, value in fields.items() for line in value.split("\n"))
        try:
            document.apply(type_, data)
        except ValueError as error:
            document.warnings.append(str(error))
    scripts = [json.loads(text[4:-1].replace("'", '"')) for text in document.scripts if text.startswith("ran(")]
    return {"page": told(root_of(document._page)), "signals": document.signals, "scripts": scripts}


def test_document_is_what_chromium_shows(chromium):
    maker = Maker(SEED)
    cases = [*WRITTEN, *(maker.case() for _ in range(CASES))]
    tab = chromium.tab()
    tab.set_content("<!doctype html><html lang=en><head></head><body></body></html>")
    tab.evaluate(START, require_client_bundle("datastar.js").read_text())
    shown = json.loads(tab.evaluate("cases => runAll(cases)", json.dumps(cases)))
    assert len(shown) == len(cases)
    different = [
        (case, theirs, ours) for case, theirs in zip(cases, shown, strict=True) if (ours := outcome(case)) != theirs
    ]
    assert not different, report(different)


def report(different):
    """The shortest case of those that differ."""
    case, theirs, ours = min(different, key=lambda each: len(str(each[0])))
    events = "\n".join(f"  {type_} {fields}" for type_, fields in case["events"])
    return f"{len(different)} differ, such as\n{case['page']}\n{events}\nChromium: {theirs}\nDocument: {ours}"
