"""The subgraph blueprint "Low-Light Enhance": load a model and enhance, as one node with the usual controls."""

from __future__ import annotations

import json
import uuid
from typing import Any

from engine import REPOSITORY
from examples import ENHANCE

NAME = "Low-Light Enhance"
PROMOTED = [("2", "model_name"), ("3", "strength"), ("3", "brightness"), ("3", "saturation")]


def _id(what: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"semi-llie/blueprint/{what}"))


def _socket(name: str, kind: str, link: int | None, *, widget: bool = False) -> dict[str, Any]:
    socket: dict[str, Any] = {"localized_name": name, "name": name, "type": kind, "link": link}
    return socket | ({"widget": {"name": name}} if widget else {})


def blueprint() -> dict[str, Any]:
    """Build the workflow that holds the one subgraph node and its definition."""
    kinds = {"tiling": "COMBO", "images_per_pass": "INT", "keep_well_lit": "BOOLEAN", "steady_frames": "INT"}
    load = {
        "id": 2,
        "type": "SemiLLIE_LoadModel",
        "pos": [40, 60],
        "size": [290, 110],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [_socket(name, "COMBO", None, widget=True) for name in ("model_name", "dtype")],
        "outputs": [{"localized_name": "model", "name": "model", "type": "SEMILLIE_MODEL", "links": [1]}],
        "properties": {"Node name for S&R": "SemiLLIE_LoadModel"},
        "widgets_values": ["semillie-compact", "auto"],
    }
    enhance = {
        "id": 3,
        "type": "SemiLLIE_Enhance",
        "pos": [380, 60],
        "size": [320, 300],
        "flags": {},
        "order": 1,
        "mode": 0,
        "inputs": [
            _socket("model", "SEMILLIE_MODEL", 1),
            _socket("image", "IMAGE", 2),
            {**_socket("mask", "MASK", 3), "shape": 7},
            *(_socket(name, kinds.get(name, "FLOAT"), None, widget=True) for name in ENHANCE),
        ],
        "outputs": [
            {"localized_name": "image", "name": "image", "type": "IMAGE", "links": [4]},
            {"localized_name": "illumination", "name": "illumination", "type": "MASK", "links": [5]},
        ],
        "properties": {"Node name for S&R": "SemiLLIE_Enhance"},
        "widgets_values": list(ENHANCE.values()),
    }

    def port(name: str, kind: str, links: list[int], at: tuple[int, int]) -> dict[str, Any]:
        return {
            **{"id": _id(f"{name} {kind} {at[0]}"), "name": name, "type": kind, "linkIds": links},
            **{"localized_name": name, "label": name, "pos": list(at)},
        }

    def link(number: int, start: tuple[int, int], end: tuple[int, int], kind: str) -> dict[str, Any]:
        return {
            **{"id": number, "origin_id": start[0], "origin_slot": start[1]},
            **{"target_id": end[0], "target_slot": end[1], "type": kind},
        }

    definition = {
        "id": _id("definition"),
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": 3, "lastLinkId": 5, "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": NAME,
        "inputNode": {"id": -10, "bounding": [-160, 180, 120, 80]},
        "outputNode": {"id": -20, "bounding": [760, 100, 140, 80]},
        "inputs": [port("image", "IMAGE", [2], (-60, 200)), port("mask", "MASK", [3], (-60, 220))],
        "outputs": [port("image", "IMAGE", [4], (780, 120)), port("illumination", "MASK", [5], (780, 140))],
        "widgets": [],
        "nodes": [load, enhance],
        "groups": [],
        "links": [
            link(1, (2, 0), (3, 0), "SEMILLIE_MODEL"),
            link(2, (-10, 0), (3, 1), "IMAGE"),
            link(3, (-10, 1), (3, 2), "MASK"),
            link(4, (3, 0), (-20, 0), "IMAGE"),
            link(5, (3, 1), (-20, 1), "MASK"),
        ],
        "extra": {},
        "category": "Image Tools/Color adjust",
        "description": "Brightens dark photos with Semi-LLIE; the network is included.",
    }
    instance = {
        "id": 1,
        "type": definition["id"],
        "pos": [0, 0],
        "size": [300, 200],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [_socket("image", "IMAGE", None), {**_socket("mask", "MASK", None), "shape": 7}],
        "outputs": [
            {"localized_name": "image", "name": "image", "type": "IMAGE", "links": []},
            {"localized_name": "illumination", "name": "illumination", "type": "MASK", "links": []},
        ],
        "title": NAME,
        "properties": {"proxyWidgets": [list(pair) for pair in PROMOTED]},
        "widgets_values": [],
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [instance],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [definition]},
        "extra": {},
    }


def write_blueprint() -> None:
    """Write ``subgraphs/Low-Light Enhance.json``."""
    target = REPOSITORY / "subgraphs" / f"{NAME}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(blueprint(), indent=1) + "\n", encoding="utf-8")
