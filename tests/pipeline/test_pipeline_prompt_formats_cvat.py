import math

import numpy as np
import pytest
from pycocotools import mask as pycoco

from pipeline.errors import ConfigurationError
from pipeline.prompt_formats import cvat
from support.prompt_files import contents, faults, load

EXPORT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <job>
      <id>52</id>
      <size>2</size>
      <mode>annotation</mode>
      <labels>
        <label>
          <name>cat</name>
          <color>#ff00cc</color>
          <type>any</type>
          <attributes>
          </attributes>
        </label>
      </labels>
    </job>
    <dumped>2024-03-02 10:11:12.131415+00:00</dumped>
  </meta>
  <image id="0" name="cats/0001.jpg" width="60" height="40">
    <box label="cat" source="manual" occluded="0" xtl="10.50" ytl="4.00" xbr="50.25" ybr="36.00" z_order="0">
      <attribute name="breed">siamese</attribute>
    </box>
    <polygon label="cat" source="auto" occluded="1" points="1.00,2.00;9.50,2.00;9.50,8.25" z_order="1" group_id="3">
    </polygon>
    <points label="cat &amp; dog" source="manual" occluded="0" points="5.00,6.00;7.50,8.00" z_order="0">
    </points>
    <mask label="cat" source="manual" occluded="0" rle="1, 2, 2, 1, 3" left="5" top="7" width="3" height="3">
    </mask>
    <ellipse label="cat" source="manual" occluded="0" cx="30.00" cy="20.00" rx="10.00" ry="5.00" z_order="0">
    </ellipse>
    <polyline label="cat" source="manual" occluded="0" points="1.00,1.00;2.00,2.00" z_order="0">
    </polyline>
    <tag label="indoors" source="manual">
    </tag>
    <skeleton label="body" source="manual" z_order="0">
      <points label="nose" source="manual" outside="0" occluded="0" points="1.00,1.00">
      </points>
    </skeleton>
    <cuboid label="cat" source="manual" xtl1="1" ytl1="1" z_order="0">
    </cuboid>
  </image>
  <image id="1" name="dogs\\0002.png" subset="Train" task_id="4" width="30" height="20">
    <box label="dog" source="manual" occluded="0" xtl="0" ytl="0" xbr="30" ybr="20" z_order="0" score="0.75">
    </box>
  </image>
  <image id="2" name="empty.png" width="30" height="20">
  </image>
</annotations>
"""


def image(*shapes, head='name="a.jpg" width="60" height="40"'):
    return f"<annotations><image {head}>{''.join(shapes)}</image></annotations>".encode()


def test_an_export_number_by_number(tmp_path):
    index = load(tmp_path, EXPORT.encode(), "cvat")
    about = {"image_size": [60, 40], "label": "cat"}
    found = index.lookup("cats/0001", "cats/0001.jpg")
    box, polygon, points, mask, ellipse = contents(found)
    assert box == about | {"box": [10.5, 4.0, 50.25, 36.0]}
    assert polygon == about | {"mask": {"polygon": [[1.0, 2.0, 9.5, 2.0, 9.5, 8.25]]}}
    assert points == about | {"label": "cat & dog", "points": [[5.0, 6.0], [7.5, 8.0]]}
    assert ellipse == about | {"box": [20.0, 15.0, 40.0, 25.0]}
    inside = np.zeros((40, 60), bool)
    inside[7, 6:8] = inside[8, 7] = True  # row by row from (5, 7): 1 out, 2 in, 2 out, 1 in, 3 out
    np.testing.assert_array_equal(pycoco.decode(mask["mask"]), inside)
    assert mask == about | {"mask": mask["mask"]}
    assert found.prompts[0].where == f"{tmp_path}/prompts.json line 22"
    assert contents(index.lookup("dogs/0002.png")) == [
        {"image_size": [30, 20], "label": "dog", "score": 0.75, "box": [0.0, 0.0, 30.0, 20.0]}
    ]
    assert len(index) == 2
    assert index.lookup("empty.png") is None
    assert not index.nameless


def test_images_are_found_by_the_end_of_their_path(tmp_path):
    index = load(tmp_path, image('<points points="1,2"/>', head='name="share/cats/a.jpg"'), "cvat")
    assert index.lookup("a.jpg")
    assert index.lookup("cats/a.jpg")
    assert index.lookup("x/a.jpg") is None
    assert contents(index.lookup("share/cats/a.jpg")) == [{"points": [[1.0, 2.0]]}]  # no size is told


@pytest.mark.parametrize("degrees", [90, 450, -270])
def test_turned_shapes_become_the_boxes_around_them(tmp_path, degrees):
    turned = f'rotation="{degrees}"'
    found = load(
        tmp_path,
        image(
            f'<box xtl="10" ytl="10" xbr="30" ybr="20" {turned}/>',
            f'<ellipse cx="20" cy="15" rx="10" ry="5" {turned}/>',
            '<box xtl="10" ytl="10" xbr="20" ybr="20" rotation="45"/>',
        ),
        "cvat",
    ).lookup("a.jpg")
    box, ellipse, square = [content["box"] for content in contents(found)]
    assert box == pytest.approx([15, 5, 25, 25])  # about its centre, 20, 15
    assert ellipse == pytest.approx([15, 5, 25, 25])
    half = math.sqrt(50)
    assert square == pytest.approx([15 - half, 15 - half, 15 + half, 15 + half])


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ('<box xtl="a" ytl="1" xbr="2" ybr="2"/>', "xtl must be a number"),
        ('<box ytl="1" xbr="2" ybr="2"/>', "xtl must be a number"),
        ('<box xtl="1" ytl="1" xbr="2" ybr="2" rotation="x"/>', "rotation must be a number"),
        ('<box xtl="1" ytl="1" xbr="2" ybr="2" score="high"/>', "score must be a number"),
        ('<polygon points=""/>', "points must be"),
        ('<polygon points="1,2;3"/>', "points must be"),
        ('<polygon points="1,2;a,b"/>', "points must be a number"),
        ("<points/>", "points must be"),
        ('<mask rle="4" left="0" top="0" width="2" height="3"/>', "adds up to 4 pixels, not to its 2 x 3"),
        ('<mask rle="4, x" left="0" top="0" width="2" height="2"/>', "rle must be a number"),
        ('<mask rle="5, -1" left="0" top="0" width="2" height="2"/>', "rle must be a whole number"),
        ('<mask rle="4" left="59" top="0" width="2" height="2"/>', "leaves its image of 60 x 40"),
        ('<mask rle="4" left="-1" top="0" width="2" height="2"/>', "left must be a whole number"),
        ('<mask rle="4" left="0" top="0" width="1e9" height="1e9"/>', "not a part of its image"),
        ('<mask rle="0" left="0" top="0" width="0" height="9"/>', "not a part of its image"),
        ('<mask rle="4" left="nan" top="0" width="2" height="2"/>', "left must be a whole number"),
        ("<hexagon/>", "elements <hexagon> are no prompts"),
    ],
)
def test_bad_shapes_stay_with_their_image(tmp_path, shape, words):
    good = '<points points="1,2"/>'
    first, fault, last = faults(load(tmp_path, image(good, shape, good), "cvat").lookup("a.jpg"))
    assert first is last is None
    assert words in fault


def test_masks_of_images_that_are_too_large_or_of_unknown_size(tmp_path):
    mask = '<mask rle="0, 4" left="0" top="0" width="2" height="2"/>'
    for head in ('name="a.jpg"', 'name="a.jpg" width="-5" height="x"', 'name="a.jpg" width="99999" height="99999"'):
        assert "width and height" in faults(load(tmp_path, image(mask, head=head), "cvat").lookup("a.jpg"))[0]


def test_numbers_that_are_none_are_left_to_the_audit(tmp_path):
    shapes = '<points points="nan,1e999"/><box xtl="inf" ytl="0" xbr="1" ybr="1" rotation="3"/>'
    points, box = contents(load(tmp_path, image(shapes), "cvat").lookup("a.jpg"))
    assert math.isnan(points["points"][0][0])
    assert points["points"][0][1] == math.inf
    assert all(map(math.isnan, box["box"]))


def test_shapes_of_no_image(tmp_path):
    text = image('<points points="1,2"/></image><image name="a.jpg"><points points="3,4"/>', head='width="6"')
    index = load(tmp_path, text, "cvat")
    assert [raw.fault for raw in index.nameless] == ["its <image> has no name"]


LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;"><!ENTITY lol3 "&lol2;&lol2;&lol2;&lol2;">]>
<annotations><image name="&lol3;"><points points="1,2"/></image></annotations>"""
EXTERNAL = b"""<!DOCTYPE annotations SYSTEM "http://127.0.0.1:9/x.dtd"><annotations/>"""
FILE = b"""<!DOCTYPE a [<!ENTITY xxe SYSTEM "file:///etc/passwd">]><annotations><image name="&xxe;"/></annotations>"""


@pytest.mark.parametrize("data", [LAUGHS, EXTERNAL, FILE, b"<!DOCTYPE annotations>" + image()])
def test_document_types_and_entities_are_refused(tmp_path, data):
    with pytest.raises(ConfigurationError, match="document type"):
        load(tmp_path, data, "cvat")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid XML"),
        (b"{}", "not valid XML"),
        (b"<annotation><object/></annotation>", "outermost element is <annotation>"),
        (image('<points points="1,2"/>')[:-5], "breaks off"),
        (image('<points points="1,&undefined;"/>'), "not valid XML"),
        (b"<annotations><track id='0'><box frame='0'/></track></annotations>", "CVAT for video"),
        (b"<annotations>" + b"<a>" * 60, "nested too deeply"),
        (b"<annotations></annotations>", "has no prompt"),
        (image('<points points="1,2"/>').replace(b"a.jpg", b"\xff"), "not valid XML"),
    ],
)
def test_files_that_are_no_export(tmp_path, data, words):
    with pytest.raises(ConfigurationError, match=words):
        load(tmp_path, data, "cvat")


def test_endless_elements_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cvat, "_CHUNK", 100)
    monkeypatch.setattr(cvat, "_LONGEST", 1000)
    assert load(tmp_path, image(*['<points points="1,2"/>'] * 500), "cvat").lookup("a.jpg")
    with pytest.raises(ConfigurationError, match="no element in 1000 bytes"):
        load(tmp_path, image('<points points="1,2' + "0" * 2000 + '"/>'), "cvat")


def test_other_encodings_and_line_ends(tmp_path):
    text = EXPORT.replace("cats/0001.jpg", "Kätzchen.jpg")
    for data in (
        text.encode("utf-8-sig"),
        text.replace("utf-8", "utf-16").encode("utf-16"),
        text.replace("utf-8", "iso-8859-1").encode("latin-1"),
        text.replace("\n", "\r\n").encode(),
    ):
        found = load(tmp_path, data, "cvat").lookup("Kätzchen.jpg")
        assert len(found.prompts) == 5
        assert found.prompts[0].where.endswith("line 22")
