"""The columns of the results table that the analysis knows, with their meanings.

`REQUIRED_COLUMNS` are in every table since schema version 1. `OPTIONAL_COLUMNS` came later or may
be left out: where a table lacks one it is read as missing values throughout.
"""

REQUIRED_COLUMNS: dict[str, str] = {
    "row_id": "name of the row, unique in the table",
    "trial_id": "name of the trial; one trial has a row per snapshot and guidance setting",
    "sweep": "name of the sweep",
    "status": "done, failed, blocked, diverged or pending",
    "error": "why the row is not done; missing when it is",
    "dataset": "name of the data set",
    "resolution": "height and width of the images, pixels",
    "tokenizer": "kind of the tokenizer",
    "downsample": "pixels per latent position along one side",
    "latent_dim": "channels of the latent",
    "alignment": "kind of the alignment, 'none' without one",
    "alignment_encoder": "network that the tokenizer is aligned with; missing without alignment",
    "vf_weight": "weight of the alignment loss; missing without alignment",
    "cos_margin": "margin of the cosine term, 0 to 1; missing without alignment",
    "distmat_margin": "margin of the distance-matrix term, 0 to 1; missing without alignment",
    "adaptive_vf": "whether gradient norms scale the weight, yes or no; missing without alignment",
    "generator": "kind of the generator",
    "generator_size": "name of the generator's size",
    "patch_size": "latent positions per token along one side, count",
    "generator_params": "parameters of the generator, count",
    "seed": "seed of the trial, the default of the three below",
    "tokenizer_seed": "seed of the tokenizer",
    "generator_seed": "seed of the generator",
    "evaluation_seed": "seed of noise and labels in the evaluation",
    "generator_images": "training images the generator has seen at this snapshot, count",
    "guidance": "label of the guidance setting, such as 'none' or 'cfg 4.0'",
    "guidance_scale": "guidance scale; 1 or missing without guidance",
    "label_policy": "how class labels of the samples are chosen",
    "rfid": "Fréchet distance of reconstructions to the originals, lower is better",
    "psnr": "peak signal-to-noise ratio of reconstructions, dB, higher is better",
    "ssim": "structural similarity of reconstructions, at most 1, higher is better",
    "lpips": "perceptual distance of reconstructions, lower is better",
    "gfid": "Fréchet distance of samples to the reference, lower is better",
    "label_accuracy": "share of samples recognised as the class asked for, 0 to 1",
    "num_images": "samples behind gfid, count",
    "num_reconstructions": "reconstructions behind rfid, count",
    "extractor": "feature network behind the distances",
    "distance_name": "name of the distances: 'in-domain Fréchet distance' or 'FID'",
    "protocol_hash": "hash of everything but the model that moves gfid, guidance included",
    "reconstruction_protocol_hash": "hash of everything but the model that moves rfid",
    "protocol": "the generation protocol's fields, JSON object",
    "reconstruction_protocol": "the reconstruction protocol's fields, JSON object",
    "tokenizer_key": "key of the tokenizer's artifact",
    "generator_key": "key of the generator's artifact",
    "tokenizer_s": "training time of the tokenizer, seconds",
    "generator_s": "training time of the generator, seconds",
    "train_flops": "training cost of tokenizer and generator, floating point operations",
    "device": "what the trial ran on",
    "git_revision": "revision of the code",
    "created": "when the row was written, ISO 8601",
    "schema_version": "version of the table's schema",
}
"""Every column that the analysis reads, with its meaning and unit."""

OPTIONAL_NUMBERS: dict[str, str] = {
    "tokenizer_params": "parameters of encoder and decoder, count",
    "tokenizer_images": "images seen in training the tokenizer, count",
    "num_reference": "images behind the reference of gfid, count",
    "extractor_accuracy": "accuracy of the in-domain extractor, 0 to 1",
    "alignment_encoder_accuracy": "accuracy of an in-domain alignment encoder, 0 to 1",
    "generation_s": "time of sampling and its metrics, seconds",
    "gfid_se": "standard error of gfid over sampling seeds; missing with one",
    "num_sampling_seeds": "sampling seeds behind gfid, count",
    "gfid_infinity": "gfid extrapolated to infinitely many samples, lower is better",
    "sfid": "spatial Fréchet distance, lower is better",
    "inception_score": "inception score in the evaluator's order of splits, higher is better",
    "inception_score_shuffled": "inception score over shuffled splits, higher is better",
    "kid": "kernel distance, mean over subsets, lower is better",
    "kid_se": "standard error of kid over subsets",
    "precision": "share of samples near the reference, 0 to 1, higher is better",
    "recall": "share of the reference near samples, 0 to 1, higher is better",
    "density_cv": "coefficient of variation of the latents' density, lower is more uniform",
    "density_gini": "Gini coefficient of the latents' density, 0 to 1, lower is more uniform",
    "density_entropy": "normalised entropy of the latents' density, 0 to 1, higher is more uniform",
    "linear_probe_accuracy": "accuracy of a linear classifier on the latents, 0 to 1",
    "spectrum_high_share": "share of latent power above half the Nyquist frequency, 0 to 1",
    "channel_std_ratio": "largest over smallest channel deviation of the raw latents, at least 1",
    "generator_flops_per_image": "cost of one image through the generator, FLOPs",
}
"""Columns of numbers that a table may lack, with meaning and unit."""

OPTIONAL_TEXTS: dict[str, str] = {
    "guidance_kind": "kind of the guidance",
    "provenance": "published, reproduced, or given: images made elsewhere",
    "generation_key": "key of the samples' artifact",
    "rank_deficient": "whether a distance has fewer images than features behind it, yes or no",
    "protocol_name": "name of the preset that the generation protocol equals; empty without",
    "reconstruction_protocol_name": "the same of the reconstruction protocol",
}
"""Columns of text that a table may lack, with meaning."""

OPTIONAL_COLUMNS = OPTIONAL_NUMBERS | OPTIONAL_TEXTS
"""Columns that are read as missing values where a table lacks them."""

SEED_COLUMNS = ("tokenizer_seed", "generator_seed", "evaluation_seed")
"""Columns that together name a repetition; the trial's `seed` is only their default."""

GIVEN = "given"
"""Provenance of images made elsewhere."""
GIVEN_MAY_LACK = ("latent_dim", "alignment", "generator_size", "tokenizer_key")
"""Columns that nobody may know of given images; they are then no points of a frontier."""

NUMERIC_COLUMNS = (
    *("resolution", "downsample", "latent_dim", "vf_weight", "cos_margin", "distmat_margin"),
    *("patch_size", "generator_params", "seed", *SEED_COLUMNS, "generator_images"),
    *("guidance_scale", "rfid", "psnr", "ssim"),
    *("lpips", "gfid", "label_accuracy", "num_images", "num_reconstructions", "tokenizer_s"),
    *("generator_s", "train_flops"),
)
"""Required columns that hold numbers; the other required ones hold text."""

STATUSES = ("done", "failed", "blocked", "diverged", "pending")
"""What a row may say of itself."""
