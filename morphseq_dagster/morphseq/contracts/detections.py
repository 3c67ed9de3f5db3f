"""Detection documents: all detections (`gdino_raw`) and the filtered ones (`gdino_detections`) (spec 1.7).

Both keep the older shape with annotations; the filtered one adds, per image, the flat list that R13 asks for.
"""

from __future__ import annotations

from pydantic import Field

from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.morphseq.contracts.entities import EntityTracker
from morphseq_dagster.morphseq.contracts.experiment_metadata import FileInfo

BoxNorm = tuple[float, float, float, float]


class DetectionEntry(DocumentPart):
    """One box in fractions of width and height: x_min, y_min, x_max, y_max."""

    box_xyxy: BoxNorm
    confidence: float = Field(ge=0, le=1)
    phrase: str


class FlatDetection(DocumentPart):
    """The same in R13's words."""

    bbox_xyxy_norm: BoxNorm
    score: float = Field(ge=0, le=1)
    prompt: str | None


class ModelMetadata(DocumentPart):
    """The backend that detected; `loading_timestamp` stays null."""

    model_config_path: str | None = None
    model_weights_path: str | None = None
    weights_sha256: str | None = None
    loading_timestamp: None = None
    model_architecture: str


class Annotation(DocumentPart):
    """One run of a detector on one image; no detections are said, not left out.

    A detector that takes no prompt or thresholds has null and an empty table there.
    """

    annotation_id: str
    prompt: str | None
    model_metadata: ModelMetadata
    inference_params: dict[str, float]
    timestamp: None = None
    num_detections: int = Field(ge=0)
    detections: tuple[DetectionEntry, ...]


class ImageDetections(DocumentPart):
    """All annotations of an image, and the filtered detections flat (empty in `gdino_raw`)."""

    annotations: tuple[Annotation, ...]
    detections: tuple[FlatDetection, ...] = ()


class HighQuality(DocumentPart):
    """Filtered detections of one experiment; images without any are absent."""

    prompt: str | None
    confidence_threshold: float
    iou_threshold: float
    timestamp: None = None
    filtered: dict[str, tuple[DetectionEntry, ...]]


class DetectionDocument(DocumentPart):
    """Detections of one experiment; `failed_wells` says which wells have none because they could not be computed."""

    file_info: FileInfo = FileInfo(script_version="morphseq_dagster")
    images: dict[str, ImageDetections]
    high_quality_annotations: dict[str, HighQuality] = Field(default_factory=dict)
    failed_wells: dict[str, str] = Field(default_factory=dict)
    entity_tracker: EntityTracker
