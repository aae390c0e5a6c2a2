"""What BCNet changes in a model and its data: the mask head, and occluders in the ground truth."""

from detectron2.config import LazyCall as L

from instseg_d2.modeling.mask_heads.bcnet import PAPER, BCNetHead


def give_bcnet(owner, dataloader):
    """Put BCNet's head in the place of Mask R-CNN's, in place, and ask the mapper for occluders.

    `owner` is the node that has `mask_head`: `model.roi_heads`, or `model` of a detector with a mask head behind it.
    """
    plain = owner.mask_head
    owner.mask_head = L(BCNetHead)(
        input_shape=plain.input_shape,
        num_classes=1,
        conv_dim=plain.conv_dims[-1],
        num_convs=4,
        graph=PAPER["graph"],
        graph_after=2,
        bilayer=True,
        guidance=True,
        deconvs="layer",
        contour_weight=1.0,
        occluder_weight=0.25,
        occluder_contour_weight=1.0,
        occluder_sampling="balanced",
        keep_aux=False,
    )
    dataloader.train.mapper.extra_fields = ["gt_occluders"]


def use_release_fcos(detector):
    """FCOS as the authors' release has it: a scale per level, weighted boxes, a low threshold on class scores."""
    detector.update(
        normalizer="mean",
        centerness_weighted_boxes=True,
        box_loss_weight=1.25,
        test_thresh_on="class",
        test_score_thresh=0.03,
    )
    detector.head.level_scales = True


def small_images(dataloader):
    """Short edge 600, long edge up to 900, in training and test: the images of the ablations."""
    dataloader.train.mapper.augmentations[0].update(short_edge_length=(600,), max_size=900)
    dataloader.test.mapper.augmentations[0].update(short_edge_length=600, max_size=900)
