"""What Teacher-Student changes in a model whose class-agnostic masks become the teacher's."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from instseg_d2.layers.dynamic_conv import DynamicLayers
from instseg_d2.modeling.mask_heads.mask_rcnn import MaskRCNNHead
from instseg_d2.modeling.mask_heads.teacher_student import SelfTaughtHead, TeacherStudentHead
from instseg_d2.modeling.meta_arch.condinst.boxinst import BoxInstLoss
from instseg_d2.modeling.meta_arch.condinst.head import Controller
from instseg_d2.modeling.meta_arch.condinst.losses import MaskDiceLoss
from instseg_d2.modeling.meta_arch.condinst.model import CondInst
from instseg_d2.modeling.meta_arch.condinst.partial import PartialBoxInstLoss
from instseg_d2.modeling.meta_arch.condinst.teacher_student import (
    ClassMaskHead,
    PairedController,
    TeacherStudentCondInst,
)
from instseg_d2.modeling.pseudo_masks import PseudoMasks


def _pseudo_masks():
    return L(PseudoMasks)(method="interaction", threshold=0.5, without_seen=True, inside_box=True, crf=None)


def _inner(plain, num_classes):
    """The node of a head like `plain`, one level further down."""
    return L(MaskRCNNHead)(
        input_shape=L(ShapeSpec)(channels="${.....backbone.out_channels}", width=14, height=14),
        num_classes=num_classes,
        conv_dims=list(plain.conv_dims),
        conv_norm=plain.get("conv_norm", ""),
    )


def take_512_keep_150(model, dataloader):
    """Proposals and detections of an image in the paper's tests, in place; `..._top100` tasks beside them."""
    model.proposal_generator.post_nms_topk = (1000, 512)
    model.roi_heads.box_predictor.test_topk_per_image = 150
    dataloader.evaluator.best_detections = 100


def add_student(model, dataloader):
    """Put a class-specific student of the same shape beside the class-agnostic mask head, in place."""
    plain = model.roi_heads.mask_head
    model.roi_heads.mask_head = _teach(_inner(plain, 1), _inner(plain, "${...num_classes}"))
    dataloader.train.mapper.extra_fields = ["gt_seen"]


def add_student_behind_detector(model, dataloader):
    """Put a student as Mask R-CNN's head beside the class-agnostic head of a `DetectThenSegment`, in place."""
    teacher = model.mask_head
    # One level further down than the head was.
    teacher.input_shape = L(ShapeSpec)(channels="${....detector.backbone.out_channels}", width=14, height=14)
    student = L(MaskRCNNHead)(
        input_shape=teacher.input_shape,
        num_classes="${...detector.num_classes}",
        conv_dims=[teacher.conv_dim] * (teacher.num_convs + 1),
    )
    model.mask_head = _teach(teacher, student)
    dataloader.train.mapper.extra_fields = ["gt_seen"]


def _teach(teacher, student):
    return L(TeacherStudentHead)(
        teacher=teacher,
        student=student,
        pseudo_masks=_pseudo_masks(),
        pseudo_start=0,
        all_channels=False,
        keep_aux=False,
    )


def teach_itself(model, dataloader):
    """Let the class-agnostic mask head learn hidden masks from its own predictions, in place: the control."""
    plain = model.roi_heads.mask_head
    model.roi_heads.mask_head = L(SelfTaughtHead)(head=_inner(plain, 1), pseudo_masks=_pseudo_masks(), pseudo_start=0)
    dataloader.train.mapper.extra_fields = ["gt_seen"]


def keep_student(model):
    """Make of a class-agnostic R-CNN what a student without its teacher is, in place: a class-specific one."""
    model.roi_heads.mask_head.num_classes = "${..num_classes}"


def supervise_as_boxinst(model):
    """Make a CondInst a BoxInst that learns masks where there are some, in place."""
    model.supervision = L(PartialBoxInstLoss)(
        masks=L(MaskDiceLoss)(), boxes=L(BoxInstLoss)(input_format="${...input_format}", warmup_iters=10000)
    )
    model.mask_branch.out_channels = 16
    model.update(max_positives=None, positives_per_image=64)
    model.detector.center_sampling = "box"


def add_condinst_student(model):
    """Give a CondInst a second, class-specific mask network an instance, in place."""
    teacher = model.mask_head
    model.update(
        _target_=TeacherStudentCondInst,
        teacher_head=teacher,
        mask_head=L(ClassMaskHead)(
            # Two dynamic layers; the third is static, from 8 channels to one a class.
            layers=L(DynamicLayers)(
                in_channels="${...mask_branch.out_channels}", channels=8, num_layers=2, out_channels=8
            ),
            num_classes="${..detector.num_classes}",
            level_sizes="${..teacher_head.level_sizes}",
            upsampling="${..teacher_head.upsampling}",
        ),
        pseudo_masks=_pseudo_masks(),
        pseudo_start=0,
        student_weight=1.0,
    )
    _pair_controllers(model)


def keep_condinst_student(model):
    """Make of a CondInst what a student without its teacher is, in place."""
    add_condinst_student(model)
    model.update(_target_=CondInst, supervision=L(MaskDiceLoss)())
    for name in ("pseudo_masks", "pseudo_start", "student_weight"):
        model.pop(name)
    model.mask_head.update(level_sizes=model.teacher_head.level_sizes, upsampling=model.teacher_head.upsampling)
    model.pop("teacher_head")
    model.detector.head.extra = L(Controller)(
        in_channels="${...backbone.out_channels}", layers="${....mask_head.layers}"
    )


def _pair_controllers(model):
    width = "${....backbone.out_channels}"
    model.detector.head.extra = L(PairedController)(
        teacher=L(Controller)(in_channels=width, layers="${.....teacher_head.layers}"),
        student=L(Controller)(in_channels=width, layers="${.....mask_head.layers}"),
    )
