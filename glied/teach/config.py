"""The config of jobs/teach.py; light, since mistakes in it are found before torch is imported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

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
    """How many, chosen by the SHA-256 of "<seed> <id>"; without a teacher, of those that have captions. null:
    all that have captions, or 10,000 for a teacher."""
    seed: int = 0
    """Another one chooses others, and splits them differently."""
    near_duplicates: int | None = None
    """Leaves out images whose perceptual hash of 64 bits differs from an earlier one's in at most so many
    bits, for which all are read once; 3 is usual. null keeps all."""
    caption_column: str = ""
    """Column of the input (forms table, parquet, webdataset) that holds a caption, or a list of them."""
    caption_sidecars: bool = False
    """Take the captions of NAME.jpg from NAME.txt beside it, one a line (form files)."""

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
class RewardConfig:
    """What the last training rewards."""

    kind: Reward = "auto"
    """cider: CIDEr against the captions (auto is the same). clip_s_grammar: CLIP-S and grammar, which compare
    with no captions. none leaves this training out."""
    clip: ClipConfig | None = None
    """Of clip_s_grammar: a CLIP that jobs/finetune_grammar.py wrote."""

    def __post_init__(self) -> None:
        """Refuse a reward by CLIP without one."""
        if self.kind == "clip_s_grammar" and self.clip is None:
            raise UsageError(
                "reward.kind clip_s_grammar needs a CLIP with a grammar head: --reward.clip.checkpoint"
            )

    @property
    def is_cider(self) -> bool:
        """Whether captions are compared with captions."""
        return self.kind in ("auto", "cider")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How the steps are run; none of it changes what is learned, but for `overrides`."""

    runtime: Literal["ray", "local"] = "ray"
    """ray: on the cluster, or on all of this machine. local: in this process, for trials with few images."""
    redo: bool = False
    """Do the steps again whose settings have changed, and those that depend on them; their folders are
    deleted first. Otherwise they are named and nothing is done."""
    dollars_per_hour: float = 0.0
    """Price of the cluster, for the cost in the report; 0 leaves it out."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """More settings for single jobs, by the keys of their configs: {captioner: {label_smoothing: 0.0}}. The
    jobs are features, attributes, captioner, reward, test."""

    def __post_init__(self) -> None:
        """Refuse jobs that there are not, and what are no settings."""
        if unknown := self.overrides.keys() - set(OVERRIDABLE):
            raise UsageError(
                f"run.overrides: {', '.join(sorted(unknown))}; the jobs are {', '.join(OVERRIDABLE)}"
            )
        for name, settings in self.overrides.items():
            if not isinstance(settings, Mapping | None):
                raise UsageError(f"run.overrides.{name} holds settings of a job, not {settings!r}")


@dataclass(frozen=True, kw_only=True)
class TeachConfig:
    """A captioner of one's own from an archive of images."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "caption_column": "sample.caption_column",
        "caption_sidecars": "sample.caption_sidecars",
        "architecture": "schedule.model.architecture",
        "reward": "reward.kind",
        "clip": "reward.clip",
        **{name: f"run.{name}" for name in ("runtime", "redo", "dollars_per_hour", "overrides")},
    }
    """Keys of version 0.2 that have moved into groups."""

    input: InputConfig
    """The archive."""
    output: TeachOutputConfig
    """Where everything goes."""
    regions: RegionsConfig
    """How regions are found."""
    captions: str = ""
    """Captions that people wrote: COCO's JSON, JSON lines or a table with image and caption
    (docs/inputs.md), or the run folder of jobs/caption_dataset.py."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """Which images are taken, and captions that lie beside them."""
    teacher: TeacherConfig | None = None
    """A captioner that describes the images; null learns from captions that are there."""
    filter: FilterConfig | None = None
    """Chooses among the teacher's captions by CLIP-S; null takes the first ones."""
    start: StartConfig | None = None
    """A captioner to go on from; null trains one from scratch."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """What the rule decides from the number of images and captions."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The last training."""
    judge: ClipConfig | None = None
    """A CLIP that neither filtered nor rewarded; with it, the evaluation has CLIP-S and retrieval."""
    run: RunConfig = field(default_factory=RunConfig)
    """Ray or not, the price of the cluster, and settings of single jobs."""

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        self._check_captions()
        if self.input.form == "features" or self.regions.kind == "precomputed":
            raise UsageError("teaching needs images: no input.form features or regions.kind precomputed")
        if self.filter and not self.teacher:
            raise UsageError("filter chooses among a teacher's captions: name a teacher")
        if self.start and self.start.cross_entropy is False and self.reward.kind == "none":
            raise UsageError("start.cross_entropy false and reward.kind none leave nothing to train")

    def _check_captions(self) -> None:
        if not self.has_captions and self.teacher is None:
            raise UsageError(
                "nothing to learn from: name captions (--captions FILE, --sample.caption_column NAME or "
                "--sample.caption_sidecars true), or a teacher (--teacher.config FILE)"
            )
        if self.sample.caption_sidecars and self.input.form != "files":
            raise UsageError(
                "sample.caption_sidecars is for input.form files; tars have the column txt: "
                "--sample.caption_column txt"
            )
        if self.sample.caption_column and self.input.form not in ("table", "parquet", "webdataset"):
            raise UsageError("sample.caption_column is for input.form table, parquet or webdataset")

    @property
    def has_captions(self) -> bool:
        """Whether there are captions that no teacher has to write."""
        return bool(self.captions or self.sample.caption_column or self.sample.caption_sidecars)


OVERRIDABLE = ("features", "attributes", "captioner", "reward", "test")
