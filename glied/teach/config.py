"""The config of jobs/teach.py; light, since mistakes in it are found before torch is imported."""

from dataclasses import dataclass, field
from typing import Any, Literal

from glied.bulk.config import InputConfig
from glied.clip.config import ClipConfig
from glied.errors import UsageError
from glied.teach.schedule import ScheduleConfig
from glied.vision.extractors.config import RegionsConfig

Reward = Literal["auto", "cider", "clip_s_grammar", "none"]
DEFAULT_SAMPLE = 10_000
"""Images that a teacher captions."""


@dataclass(frozen=True, kw_only=True)
class TeachOutputConfig:
    """Where everything goes."""

    uri: str
    """Folder (path or URI) of all steps; the same command with the same folder goes on after any kill."""
    unit_size: int = 256
    """Images that extraction and captioning write and commit together."""

    def __post_init__(self) -> None:
        """Refuse an empty name."""
        if not self.uri:
            raise UsageError("output.uri is empty")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Which images of the archive are taken."""

    images: int | None = None
    """How many, chosen by the SHA-256 of "<seed> <id>"; null: all that have captions, or 10,000 for a
    teacher."""
    seed: int = 0
    """Another one chooses others, and splits them differently."""
    near_duplicates: int | None = None
    """Leaves out images whose perceptual hash of 64 bits differs from an earlier one's in at most so many
    bits, for which all are read once; 3 is usual. null keeps all."""

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.images is not None and self.images < 1:
            raise UsageError(f"sample.images: {self.images} is not at least 1")
        if self.near_duplicates is not None and not 0 <= self.near_duplicates <= 32:
            raise UsageError(f"sample.near_duplicates: {self.near_duplicates} is not in 0 to 32 bits")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Who describes the sample."""

    config: str
    """Config of jobs/caption_dataset.py: a file, or the name of one that ships, such as caption/photographs.
    Its input and output are not used."""
    captions: int = 3
    """Captions of an image to learn from, at most."""
    candidates: int = 5
    """Captions of an image to choose them from: the best of the search, or samples."""
    method: Literal["beam", "sample"] = "sample"
    """How candidates are found: the best of a beam search, or drawn at random, which varies more."""
    temperature: float = 0.7
    """Of samples: below 1 they keep closer to the likeliest words."""
    options: dict[str, Any] = field(default_factory=dict)
    """More settings for `config`, by the keys of its file, for captioners of other kinds."""

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if not 1 <= self.captions <= self.candidates:
            raise UsageError(
                f"teacher.captions: {self.captions} is not in 1 to candidates ({self.candidates})"
            )


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which of the teacher's captions are learned from, by CLIP-S of image and caption."""

    clip: ClipConfig
    """The CLIP that chooses."""
    drop: float = 0.2
    """Share of the images left out: those whose best caption fits worst."""

    def __post_init__(self) -> None:
        """Refuse a share without meaning."""
        if not 0 <= self.drop < 1:
            raise UsageError(f"filter.drop: {self.drop} is not in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """A captioner to go on from; the regions must be those that it was trained on."""

    captioner: str
    """Checkpoint (folder or URI) of the captioner; a relative path is looked for here, then in the
    repository."""
    attributes: str
    """Checkpoint of the attribute predictor that it was trained with."""
    cross_entropy: bool | None = None
    """Train it with cross-entropy before the reward, with the words of the captions that it does not know;
    null: where these are more than 2 % of the captions' words."""


@dataclass(frozen=True, kw_only=True)
class TeachConfig:
    """A captioner of one's own from an archive of images."""

    input: InputConfig
    """The archive."""
    output: TeachOutputConfig
    """Where everything goes."""
    regions: RegionsConfig
    """How regions are found."""
    captions: str = ""
    """Captions that people wrote: COCO's JSON, JSON lines or a table with image and caption
    (docs/inputs.md), or the run folder of jobs/caption_dataset.py."""
    caption_column: str = ""
    """Column of the input (forms table, parquet, webdataset) that holds a caption, or a list of them."""
    caption_sidecars: bool = False
    """Take the captions of NAME.jpg from NAME.txt beside it, one a line (form files)."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """Which images are taken."""
    teacher: TeacherConfig | None = None
    """A captioner that describes the images; null learns from captions that are there."""
    filter: FilterConfig | None = None
    """Chooses among the teacher's captions by CLIP-S; null takes the first ones."""
    start: StartConfig | None = None
    """A captioner to go on from; null trains one from scratch."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """What the rule decides from the number of images and captions."""
    architecture: str = "glied"
    """Architecture of the captioner, as in `model.architecture` of jobs/train_captioner.py."""
    reward: Reward = "auto"
    """What the last training rewards: cider (CIDEr against the captions; auto is the same), clip_s_grammar
    (CLIP-S and grammar, which compare with no captions), or none, which leaves it out."""
    clip: ClipConfig | None = None
    """The CLIP of the reward clip_s_grammar, which jobs/finetune_grammar.py wrote."""
    judge: ClipConfig | None = None
    """A CLIP that neither filtered nor rewarded; with it, the evaluation has CLIP-S and retrieval."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """More settings for single jobs, by the keys of their configs: {captioner: {label_smoothing: 0.0}}. The
    jobs are features, attributes, captioner, reward, test."""
    dollars_per_hour: float = 0.0
    """Price of the cluster, for the cost in the report; 0 leaves it out."""
    runtime: Literal["ray", "local"] = "ray"
    """ray: on the cluster, or on all of this machine. local: in this process, for trials with few images."""
    redo: bool = False
    """Do the steps again whose settings have changed, and those that depend on them; their folders are
    deleted first. Otherwise they are named and nothing is done."""

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        if not self.has_captions and self.teacher is None:
            raise UsageError(
                "nothing to learn from: name captions (--captions FILE, --caption_column NAME or "
                "--caption_sidecars true), or a teacher (--teacher.config FILE)"
            )
        if self.caption_sidecars and self.input.form != "files":
            raise UsageError(
                "caption_sidecars is for input.form files; tars have the column txt: --caption_column txt"
            )
        if self.caption_column and self.input.form not in ("table", "parquet", "webdataset"):
            raise UsageError("caption_column is for input.form table, parquet or webdataset")
        if self.input.form == "features" or self.regions.kind == "precomputed":
            raise UsageError("teaching needs images: no input.form features or regions.kind precomputed")
        if self.filter and not self.teacher:
            raise UsageError("filter chooses among a teacher's captions: name a teacher")
        if self.start and self.start.cross_entropy is False and self.reward == "none":
            raise UsageError("start.cross_entropy false and reward none leave nothing to train")
        if self.judge and self.input.form != "files":
            raise UsageError("judge looks at the images below input.uri: it needs input.form files")
        if self.reward == "clip_s_grammar" and self.clip is None:
            raise UsageError("reward clip_s_grammar needs a CLIP with a grammar head: --clip.checkpoint")
        if unknown := self.overrides.keys() - set(OVERRIDABLE):
            raise UsageError(
                f"overrides: {', '.join(sorted(unknown))}; the jobs are {', '.join(OVERRIDABLE)}"
            )

    @property
    def has_captions(self) -> bool:
        """Whether there are captions that no teacher has to write."""
        return bool(self.captions or self.caption_column or self.caption_sidecars)


OVERRIDABLE = ("features", "attributes", "captioner", "reward", "test")
