"""Small helpers over xml.etree: documents are built and read as trees, never as text."""

from __future__ import annotations

import xml.etree.ElementTree as ET

NAMESPACE = "urn:sharewright:libvirt:1"
ET.register_namespace("sharewright", NAMESPACE)


def add(parent: ET.Element, tag: str, text: str | None = None, /, **attributes: object) -> ET.Element:
    """A child element; a trailing underscore in an attribute's name is dropped (``type``, ``class``)."""
    child = ET.SubElement(parent, tag, {name.rstrip("_"): str(value) for name, value in attributes.items()})
    child.text = text
    return child


def render(element: ET.Element) -> str:
    return ET.tostring(element, encoding="unicode")


def parse(text: str) -> ET.Element:
    """A document that libvirtd gave us."""
    return ET.fromstring(text)  # noqa: S314 (comes from libvirtd over its own socket)


def attribute(element: ET.Element, path: str, name: str) -> str | None:
    """An attribute of the first element at path, or None."""
    found = element.find(path)
    return None if found is None else found.get(name)


def ours(tag: str) -> str:
    """A tag in our own namespace."""
    return f"{{{NAMESPACE}}}{tag}"
