"Pipelines of diffusers with a few thousand random weights, and what each needs to be called."

import torch

PROMPT_WIDTH, PROMPT_WORDS, POOLED_WIDTH = 8, 5, 8


def build(make, seed=0):
    "A model with weights of one seed, ready to answer."
    torch.manual_seed(seed)
    return make().eval().requires_grad_(False)


def vae(d, channels=4):
    kinds = dict(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2
    )
    sizes = dict(block_out_channels=(8, 16), norm_num_groups=4, sample_size=16)
    return build(
        lambda: d.AutoencoderKL(latent_channels=channels, shift_factor=0.1, **sizes, **kinds)
    )


def unet(d, **settings):
    "UNet2DModel on pictures of 3x8x8."
    sizes = dict(sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16))
    blocks = dict(
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
    )
    return build(lambda: d.UNet2DModel(**{**sizes, **blocks, **settings}))


def prompted_unet(d, **settings):
    "UNet2DConditionModel on latents of 4x8x8."
    sizes = dict(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=PROMPT_WIDTH,
        attention_head_dim=4,
    )
    blocks = dict(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return build(lambda: d.UNet2DConditionModel(**{**sizes, **blocks, **settings}))


def xl_unet(d, ids=6):
    "The same with SDXL's pooled prompt and time ids."
    return prompted_unet(
        d,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 8 * ids,
    )


def dit(d):
    return build(
        lambda: d.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            sample_size=8,
            num_embeds_ada_norm=1000,
        )
    )


def pixart(d):
    return build(
        lambda: d.PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            cross_attention_dim=16,
            sample_size=8,
            caption_channels=PROMPT_WIDTH,
            use_additional_conditions=False,
        )
    )


def sd3(d):
    return build(
        lambda: d.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=PROMPT_WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=POOLED_WIDTH,
            out_channels=4,
            pos_embed_max_size=8,
        )
    )


def flux(d, guidance=True):
    return build(
        lambda: d.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=PROMPT_WIDTH,
            pooled_projection_dim=POOLED_WIDTH,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 4, 8),
        )
    )


def prompts(n=2, pooled=True, negative=True):
    "Keyword arguments that stand for encoded prompts."
    g = torch.Generator().manual_seed(7)

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    words, wide = draw(n, PROMPT_WORDS, PROMPT_WIDTH), draw(n, POOLED_WIDTH)
    none, wide_none = (v.expand(n, *v.shape[1:]) for v in (draw(1, 5, 8), draw(1, 8)))
    given = dict(prompt_embeds=words)
    if negative:
        given["negative_prompt_embeds"] = none
    if pooled:
        given["pooled_prompt_embeds"] = wide
    if pooled and negative:
        given["negative_pooled_prompt_embeds"] = wide_none
    return given


STABLE = dict(
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
)


def stable(d, name="StableDiffusionPipeline", channels=4, scheduler=None):
    parts = dict(vae=vae(d), text_encoder=None, tokenizer=None, feature_extractor=None)
    scheduler = scheduler or d.DDIMScheduler(**STABLE)
    net = prompted_unet(d, in_channels=channels)
    cls = getattr(d, name)
    return quiet(
        cls(
            unet=net,
            scheduler=scheduler,
            safety_checker=None,
            requires_safety_checker=False,
            **parts,
        )
    )


def xl(d, refiner=False, scheduler=None):
    cls = d.StableDiffusionXLImg2ImgPipeline if refiner else d.StableDiffusionXLPipeline
    scheduler = scheduler or d.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    nothing = dict(text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None)
    return quiet(
        cls(vae=vae(d), unet=xl_unet(d), scheduler=scheduler, add_watermarker=False, **nothing)
    )


def sd3_pipeline(d, name="StableDiffusion3Pipeline", scheduler=None):
    nothing = {
        f"{part}{i}": None for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3")
    }
    scheduler = scheduler or d.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return quiet(getattr(d, name)(transformer=sd3(d), vae=vae(d), scheduler=scheduler, **nothing))


def flux_pipeline(d, scheduler=None, name="FluxPipeline"):
    nothing = {f"{part}{i}": None for part in ("text_encoder", "tokenizer") for i in ("", "_2")}
    scheduler = scheduler or d.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    cls = getattr(d, name)
    return quiet(cls(transformer=flux(d), vae=vae(d), scheduler=scheduler, **nothing))


def dit_pipeline(d, scheduler=None):
    scheduler = scheduler or d.DDIMScheduler(clip_sample=False)
    return quiet(d.DiTPipeline(transformer=dit(d), vae=vae(d), scheduler=scheduler))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
