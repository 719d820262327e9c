"""Every kind of fault that readers and `vitral data check` report. Programs may rely on the ids, which are stable.

error: training or evaluation would stop or be wrong. warning: probably unintended. note: good to know.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]


class Kind(NamedTuple):
    severity: Severity
    title: str
    """The same for any count; a count and names follow it."""
    remedy: str
    share: float = 0.0
    """A warning becomes a note up to this share of what was checked."""


ANNOTATIONS = {
    "annotation-id": Kind(
        "warning",
        "annotation ids that are 0 or occur twice",
        "They are numbered anew, since COCO's evaluation would miss these objects; number them from 1.",
    ),
    "annotation-malformed": Kind("error", "annotations that cannot be understood", "Correct or delete them."),
    "annotation-unlisted": Kind(
        "warning",
        "annotations of images that are not listed or not there, left out",
        "Add the images, or delete the annotations.",
    ),
    "label-unknown": Kind("error", "labels that are no class", "Correct the label, or add the class."),
    "classes-differ": Kind("error", "classes that not every split has", "Give every split the same classes."),
    "image-id-twice": Kind("error", "image ids that occur twice", "Number the images anew."),
    "image-twice": Kind(
        "warning",
        "images that are listed twice",
        "Merge the entries: what is labeled in one of them is background in the other.",
    ),
    "image-missing": Kind(
        "error", "listed images that are not on disk", "Add them, or take them out of the annotations."
    ),
    "image-unlisted": Kind(
        "warning",
        "images that no annotation file speaks of, left out",
        "Annotate them (an empty annotation makes a negative), or remove them.",
    ),
    "size-differs": Kind(
        "error",
        "images of another size than their annotations say",
        "The boxes would be in the wrong place; correct the file or the annotations.",
    ),
    "split-missing": Kind(
        "error", "splits whose folder or list is not there", "Correct the path; it is looked for from `path`."
    ),
    "test-missing": Kind("warning", "a test split whose folder or list is not there", "Correct or remove the path."),
    "yaml-path": Kind("note", "a `path` that is not there; the file's own folder is taken", "Correct or remove it."),
    "yaml-code": Kind(
        "note",
        "keys that name code or a URL to download from: nothing of it is run or fetched",
        "Download the images yourself.",
    ),
    "voc-filename": Kind(
        "warning",
        "XML files whose <filename> is another image than the one of the same name",
        "The image of the same name is taken; correct <filename>.",
    ),
    "voc-from-zero": Kind(
        "warning",
        "boxes that begin at pixel 0, while VOC counts from 1",
        "If all were counted from 0, they are off by one pixel; add 1 to each coordinate.",
    ),
}

BOXES = {
    "box-empty": Kind("warning", "boxes with a side of 0 or less, left out", "Correct or delete them."),
    "box-not-finite": Kind("warning", "boxes with NaN or infinity, left out", "Correct or delete them."),
    "box-corners": Kind(
        "note",
        "boxes taken as corners, since as x, y, width, height they would leave their images",
        "Write them as x, y, width, height.",
    ),
    "box-not-share": Kind(
        "error",
        "boxes with numbers beyond 2, where shares of the image's sides are meant",
        "Divide pixels by the image's width and height.",
    ),
    "box-beyond": Kind("warning", "boxes that reach beyond their image, cut", "Correct them.", share=0.01),
    "box-tiny": Kind(
        "warning",
        "boxes less than 3 pixels wide or high where the image's longer side is 640",
        "Train with a larger --image-size, look for them with --tile, or delete slips of the mouse.",
        share=0.01,
    ),
    "box-whole": Kind("warning", "boxes over the whole image", "Are they labels of images, not boxes?", share=0.1),
    "box-twice": Kind("warning", "boxes that are there twice with the same label", "Delete one of them."),
    "box-two-classes": Kind("warning", "boxes that are there twice with different labels", "Decide for one."),
    "image-bare": Kind(
        "warning", "images without boxes, more than half of a split", "Are the annotations where they are looked for?"
    ),
    "image-crowded": Kind(
        "note",
        "images with more than 100 objects, of which COCO's AP counts 100",
        "Cut them into tiles, or keep it in mind.",
    ),
    "split-without-boxes": Kind(
        "error", "splits without any box", "Are the annotations where they are looked for? Such a split has no score."
    ),
}

CLASSES = {
    "class-typo": Kind("warning", "names of classes that are nearly equal", "Merge them, if they are the same."),
    "class-empty": Kind("warning", "classes without an example", "Add some, or remove the class."),
    "class-few": Kind("note", "classes with fewer than 10 examples", "Add some, or expect little of them."),
    "class-imbalance": Kind(
        "warning", "the largest class has more than 50 times the examples of the smallest", "Try --balanced."
    ),
    "class-absent": Kind("warning", "classes of train that a split has no example of", "Divide the images anew."),
    "class-unseen": Kind("warning", "classes that train has no example of", "Divide the images anew."),
    "class-alone": Kind(
        "error", "the only class folder", "Two are the least. If the class folders lie inside it, give it as the data."
    ),
}

FILES = {
    "source-unreadable": Kind("error", "the data cannot be opened", "See the message."),
    "file-empty": Kind("warning", "files of 0 bytes, left out", "Replace or remove them."),
    "file-unreadable": Kind(
        "error", "files that cannot be opened", "Check that they are there, and their permissions."
    ),
    "file-foreign": Kind("error", "files that are no images of a kind that is read", "Convert or remove them."),
    "file-corrupt": Kind("error", "images that cannot be decoded", "Replace or remove them."),
    "file-truncated": Kind("error", "images that end too early", "Fetch them again, or remove them."),
    "file-bomb": Kind("error", "images with more pixels than the limit", "Make them smaller."),
    "file-values": Kind("error", "images whose values have no set brightness", "Save them with 8 or 16 bits."),
    "file-suffix": Kind("note", "files whose suffix is that of another format", "Nothing here minds; other tools may."),
    "file-other": Kind("note", "files that are no images, left out", "Nothing needs to be done."),
    "file-unread": Kind("warning", "images in formats that are not read, left out", "Convert them to JPEG or PNG."),
    "link-broken": Kind("warning", "links that lead nowhere, left out", "Repair or remove them."),
    "image-loose": Kind("warning", "images in no class folder, left out", "Put each into the folder of its class."),
    "folder-beside": Kind("warning", "folders beside those of the splits, left out", "Move or remove them."),
    "name-case": Kind(
        "warning", "names that differ in upper and lower case alone", "Rename them: some systems hold only one of them."
    ),
    "name-odd": Kind("warning", "names that are not valid UTF-8 or hold control characters", "Rename them."),
    "duplicate": Kind("warning", "files that are a copy of another in their split", "Remove them."),
    "duplicate-conflict": Kind("warning", "equal files with different labels", "Decide for one."),
    "leak": Kind("warning", "files that are in two splits", "Remove them from one: the score would reward memory."),
    "near-duplicate": Kind("note", "images that look like another in their split", "Remove them, if they add nothing."),
    "near-leak": Kind(
        "warning", "images that look like one in another split", "Divide anew with these together (split --group)."
    ),
}

IMAGES = {
    "image-turned": Kind(
        "note", "images that their EXIF orientation turns", "They are read upright; other tools may not do so."
    ),
    "image-frames": Kind(
        "warning", "images with several frames, of which the first is used", "Save frames by themselves."
    ),
    "image-transparent": Kind("note", "images with transparent pixels", "They are put on white."),
    "image-mode": Kind("note", "images in unusual modes", "They become RGB; see that their colors are as you expect."),
    "image-blank": Kind("warning", "images of one single color", "Remove them."),
    "image-tiny": Kind(
        "warning", "images with less than a hundredth of the pixels of the others", "Are they previews?"
    ),
    "image-huge": Kind("note", "images of more than 25 megapixels", "Smaller copies are read many times faster."),
    "image-narrow": Kind(
        "warning", "images more than 8 times as long as wide", "Cut them, or see that resizing suits them."
    ),
}

KINDS: dict[str, Kind] = {**ANNOTATIONS, **BOXES, **CLASSES, **FILES, **IMAGES}
