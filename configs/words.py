"""What other projects call a setting, and what to do where there is none: for "did you mean" by meaning."""

SAME = {  # a setting of ours -> its names elsewhere; a verb answers with those of these that it has
    "optimizer.learning-rate": "lr learning-rate base-lr peak-lr max-lr adam-lr rate",
    "optimizer.warmup-steps": "warmup warmup-iters lr-warmup lr-warmup-steps num-warmup-steps warmup-ratio",
    "optimizer.decay-steps": "decay lr-decay lr-decay-steps lr-decay-iters cooldown cooldown-steps",
    "optimizer.schedule": "lr-scheduler lr-scheduler-type lr-schedule scheduler wsd",
    "optimizer.decay-start": "cooldown-start decay-from",
    "optimizer.kind": "optimizer optim optimizer-type optimizer-name adamw adam muon "
    "use-8bit-adam adam8bit adamw8bit 8bit-adam bnb",
    "optimizer.base-width": "mup mup-base mup-base-width base-shapes mup-base-dim",
    "fp8": "float8 use-fp8 enable-fp8 float8-training",
    "repa.weight": "repa repa-weight proj-coeff repa-coeff repa-loss-weight",
    "repa.block": "encoder-depth repa-layer",
    "lora.rank": "lora lora-rank lora-r use-lora adapter",
    "lora.alpha": "lora-alpha",
    "lora": "lora-path lora-weights adapter adapters",
    "optimizer.weight-decay": "wd adam-weight-decay weight-decay",
    "optimizer.beta2": "adam-beta2 beta-2",
    "optimizer.max-gradient-norm": "clip grad-clip gradient-clip gradient-clip-val max-grad-norm clip-grad "
    "clip-grad-norm gradient-clipping",
    "optimizer.ema-decay": "ema use-ema ema-rate ema-decay",
    "train.steps": "max-steps max-train-steps num-train-steps train-steps total-steps num-steps steps iters "
    "max-iters iterations num-iterations epochs num-epochs num-train-epochs max-epochs n-epochs epoch",
    "train.batch": "bs batch batch-size train-batch-size global-batch-size micro-batch micro-batch-size "
    "per-device-train-batch-size",
    "train.tokens": "batch-tokens tokens-per-batch tokens-per-step max-tokens-per-batch global-batch-tokens",
    "train.pack-tokens": "accumulate accum grad-accum accumulation accumulation-steps gradient-accumulation "
    "grad-accum-steps accumulate-grad-batches gradient-accumulation-steps max-tokens max-tokens-per-gpu "
    "max-packed-tokens pack-size packed-length",
    "train.log-every": "log-every log-interval log-steps logging-steps log-freq print-freq log-every-n-steps",
    "train.save-every": "save-every save-steps save-interval save-freq ckpt-every checkpoint-every "
    "checkpoint-steps checkpointing-steps checkpoint-interval ckpt-interval",
    "train.show-every": "eval-every eval-steps eval-interval eval-freq val-every val-interval "
    "validation-steps validation-interval sample-every sample-interval validate-every",
    "train.tracker": "wandb use-wandb tensorboard use-tensorboard tb trackio tracker trackers tracking "
    "logger loggers report-to log-with",
    "train.precision": "precision mixed-precision dtype amp bf16 fp16 fp32 half float16 bfloat16 torch-dtype",
    "train.seed": "seed random-seed manual-seed",
    "data.source": "data dataset dataset-name dataset-path data-dir data-path data-root train-data "
    "train-data-dir train-dir manifest videos video-dir video-folder cache latents input",
    "data.sources": "mixture mix data-mix data-mixture datasets dataset-weights data-weights source-weights "
    "sampling-weights",
    "data.frames": "num-frames n-frames frames max-frames video-length sample-n-frames clip-length",
    "data.size": "resolution res size image-size video-size height width",
    "data.fps": "fps frame-rate framerate sample-rate target-fps",
    "data.workers": "num-workers workers dataloader-num-workers n-workers",
    "sampler.steps": "num-inference-steps inference-steps sampling-steps sample-steps num-sampling-steps "
    "ddim-steps",
    "sampler.guidance": "cfg cfg-scale guidance guidance-scale guide-scale scale",
    "sampler.solver": "solver sampler sample-solver noise-scheduler",
    "init": "pretrained pretrained-path pretrained-model pretrained-model-name-or-path checkpoint "
    "checkpoint-path ckpt ckpt-path finetune finetune-from load load-from init-from init-weights weights",
    "from-run": "from-checkpoint start-from fork branch",
    "autoencoder": "vae ae vae-path vae-folder first-stage",
    "text.folder": "text-encoder text-encoder-path t5 t5-path tokenizer",
    "flow.shift": "timestep-shift time-shift flow-shift",
    "flow.times": "timestep-sampling timestep-sampler weighting-scheme time-sampling t-sampling",
    "flow.weighting": "loss-weighting loss-weight snr-weighting",
    "flow.snr-limit": "snr-gamma min-snr-gamma min-snr",
    "flow.mode-scale": "mode-scale",
    "flow.time-mean": "logit-mean",
    "flow.time-std": "logit-std",
    "flow.prompt-dropout": "cfg-dropout caption-dropout text-dropout uncond-prob cond-drop-prob",
    "model.depth": "layers num-layers n-layer n-layers num-blocks",
    "model.width": "hidden-size hidden-dim dim d-model embed-dim n-embd",
    "model.heads": "num-heads n-head n-heads num-attention-heads",
    "model.mlp-width": "ffn-dim mlp-dim intermediate-size",
    "kl-weight": "kl kl-scale kl-loss-weight",
    "discriminator.weight": "disc-weight gan-weight adversarial-weight",
    "perceptual.weight": "lpips-weight perceptual-loss-weight",
    "checkpoint-activations": "gradient-checkpointing grad-checkpointing activation-checkpointing "
    "grad-checkpoint use-checkpoint recompute",
    "steps": "num-inference-steps inference-steps sampling-steps sample-steps num-sampling-steps num-steps "
    "ddim-steps n-steps",
    "guidance": "cfg cfg-scale guidance-scale guide-scale scale",
    "solver": "sampler scheduler sample-solver method noise-scheduler",
    "number": "n num num-samples n-samples samples num-videos num-videos-per-prompt num-images-per-prompt "
    "num-outputs repeat",
    "image": "first-frame init-image input-image image-path img i2v start-image",
    "frames": "num-frames n-frames max-frames video-length length sample-n-frames clip-length",
    "height": "resolution res size image-size video-size",
    "width": "resolution res size image-size video-size",
    "fps": "frame-rate framerate export-fps",
    "prompts-file": "prompt-file prompt-path prompts-path txt-file",
    "decode-memory": "tile tiling vae-tiling tiled-vae enable-vae-tiling vae-slicing enable-vae-slicing",
    "encode-memory": "tile tiling vae-tiling tiled-vae enable-vae-tiling",
    "model": "checkpoint checkpoint-path checkpoint-dir ckpt ckpt-path ckpt-dir model-path model-dir "
    "model-id model-name pretrained pretrained-model-name-or-path run run-dir transformer weights load",
    "train.tf32": "allow-tf32 enable-tf32 use-tf32",
    "precision": "dtype torch-dtype mixed-precision amp bf16 fp16 fp32 half float16 bfloat16",
    "out": "output output-dir output-path output-file output-folder outdir save-dir save-path save-to "
    "log-dir logdir results-dir result-dir exp-dir work-dir run-folder o dest destination",
    "real": "gt ground-truth reference ref real-path real-dir real-videos original originals",
    "fake": "gen generated pred predictions fake-path fake-dir fake-videos gen-path videos samples",
    "videos": "video-dir videos-path video-folder samples generated fake",
    "prompts": "captions caption-file prompts-file",
    "data": "videos data-path data-dir dataset clips manifest real",
    "json": "output output-path output-file out o save save-path result results",
    "batch": "bs batch-size",
    "workers": "num-workers n-workers dataloader-num-workers",
    "count": "n num num-videos num-samples n-samples limit max-samples",
    "resamples": "bootstrap n-bootstrap num-resamples",
    "protocol": "preset",
    "threads": "num-threads n-threads cpu-threads",
}
NONE = {  # names elsewhere -> the settings of which a verb must have one, why there is none of that name
    "epoch epochs num-epochs num-train-epochs max-epochs n-epochs": (
        "train.steps",
        "a run is counted in steps, and an epoch of N clips takes N / --train.batch of them",
    ),
    "accumulate accum grad-accum accumulation accumulation-steps gradient-accumulation grad-accum-steps "
    "accumulate-grad-batches gradient-accumulation-steps": (
        "kl-weight",
        "there is no gradient accumulation: --train.batch is the whole batch of a step, and "
        "--checkpoint-activations or more processes make it fit",
    ),
    "wandb-project wandb-entity wandb-name project project-name run-name exp-name name mlflow comet": (
        "train.tracker",
        "a run is its folder, --out, whose name a tracker has too (--train.tracker tensorboard, wandb or "
        "trackio)",
    ),
    "beta1 beta-1 adam-beta1 betas": ("train.steps", "AdamW's first beta is 0.9, and has no setting"),
    "config cfg-file config-file c": (
        "train.steps",
        "the config is the first word after the verb, as in `dit train small`",
    ),
    "height width": ("data.size", "clips keep their own aspect ratio, and one setting says their area"),
    "source data data-source manifest input": (
        "shard-clips",
        "a cache is of the manifest that is given first",
    ),
    "compile torch-compile use-compile": ("help", "`dit train` and `dit bench` compile, nothing else does"),
    "ema use-ema ema-rate no-ema": (
        "train.steps model",
        "the average of the weights is always kept, and is what samples are made with",
    ),
    "tf32 allow-tf32 enable-tf32 use-tf32": (
        "model protocol shard-clips",
        "products of fp32 are exact in every verb but a training with --train.tf32",
    ),
    "fp16 half float16 amp": ("train.precision precision", "computation is in bf16 or fp32"),
    "gpus gpu num-gpus n-gpus ngpus devices num-devices nproc nproc-per-node num-processes world-size nodes "
    "num-nodes distributed ddp": (
        "train.steps shard-clips protocol job",
        "the launcher says how many processes there are, as in "
        "`torchrun --nproc-per-node 2 -m dit.train small`",
    ),
    "gpu gpus device cuda cpu use-cuda no-cuda mps num-gpus": (
        "help",
        "a GPU is taken where there is one; CUDA_VISIBLE_DEVICES= (empty) before the command hides it",
    ),
    "resume resume-from resume-from-checkpoint auto-resume continue restart resume-path resume-training "
    "continue-from": ("help", "to go on with what was stopped, give the same command, with its --out, again"),
    "fsdp deepspeed zero zero-stage offload cpu-offload enable-model-cpu-offload tensor-parallel tp sp "
    "context-parallel": (
        "help",
        "dit train has --parallel.shard full (FSDP2) and --parallel.context; nothing is offloaded",
    ),
    "prompt p text caption": (
        "prompts-file",
        'prompts come first and without a name, as in `dit sample "a red circle moves left"`',
    ),
    "duration seconds num-seconds": ("frames", "length is counted in frames, of which --fps make a second"),
    "format type ext video-format codec": ("prompts-file", "the ending of --out says the format"),
    "xformers flash-attn flash-attention attention enable-xformers attention-backend sdpa": (
        "train.steps model",
        "the fastest attention that works here is chosen, and `dit doctor` shows which",
    ),
    "verbose v log-level": ("help", "there are no levels of output, and --debug shows an error's traceback"),
    "i3d i3d-path detector feature-extractor": (
        "weights",
        "the protocol says which network, and --weights is its file",
    ),
}


def same_meaning(name: str, known: list[str]) -> list[str]:
    """The settings among `known` that other projects call `name`, or its last part; its group's go first."""
    group, _, word = _spoken(name).rpartition(".")
    meant = [setting for setting, others in SAME.items() if word in others.split()]
    beside = [f"{group}.{setting.rpartition('.')[2]}" for setting in meant]
    dashed = {_spoken(setting): setting for setting in known}
    found = [setting for setting in beside if setting in dashed] or [s for s in meant if s in dashed]
    return [dashed[setting] for setting in dict.fromkeys(found)]


def why_none(name: str, known: list[str]) -> str:
    """Why a verb with the settings `known` has none of this name; empty where there is nothing to say."""
    word, there = _spoken(name).rpartition(".")[2], set(map(_spoken, known))
    whys = (
        why for others, (scope, why) in NONE.items() if word in others.split() and there & {*scope.split()}
    )
    return next(whys, "")


def is_spoken_of(name: str) -> bool:
    """Whether this is a name elsewhere, for which a setting that is only spelled like it is no answer."""
    word = _spoken(name).rpartition(".")[2]
    return any(word in others.split() for others in (*SAME.values(), *NONE))


def _spoken(name: str) -> str:
    """A setting's name as on the command line."""
    return name.lower().replace("_", "-")
