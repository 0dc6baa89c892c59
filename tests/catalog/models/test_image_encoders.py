"""Images as tokens: the counts that the processors of transformers make, and encoders read from configurations."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.config_fields import Fields
from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.models.hf_config import model_from_config
from catalog.models.image_encoders import encoder_of, read_image_encoder, read_size, with_images

CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "image_size": 336, "patch_size": 14}
PIXTRAL = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "image_size": 1024,
    "patch_size": 16,
}
LLAVA = {"model_type": "llava", "vision_config": CLIP | {"model_type": "clip_vision_model"}}
PIXTRAL_12B = {"model_type": "llava", "vision_config": PIXTRAL | {"model_type": "pixtral"}}
MISTRAL_SMALL = {
    "model_type": "mistral3",
    "spatial_merge_size": 2,
    "vision_config": PIXTRAL | {"model_type": "pixtral", "image_size": 1540, "patch_size": 14},
}
QWEN2 = "Qwen/Qwen2.5-VL-7B-Instruct"
QWEN3 = "Qwen/Qwen3-VL-8B-Instruct"
LLAMA4 = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
GEMMA3 = "google/gemma-3-27b-it"


def named(name):
    return encoder_of(find_model(name).value)


def configured(config):
    return read_image_encoder(Fields(config, "config.json"), 4096)


@pytest.mark.parametrize(
    ("encoder", "height", "width", "tokens", "patches"),
    [
        # Qwen2VLImageProcessor (smart_resize): sides rounded to 28, 12845056 pixels at most; a quarter of the patches are tokens
        (named(QWEN2), 224, 224, 64, 256),
        (named(QWEN2), 1024, 1024, 1369, 5476),
        (named(QWEN2), 480, 640, 391, 1564),
        (named(QWEN2), 4000, 5000, 114 * 143, 4 * 114 * 143),  # made smaller
        (named(QWEN2), 20, 20, 4, 16),  # enlarged to 3136 pixels
        # the same with patches of 16 and from 65536 to 16777216 pixels
        (named(QWEN3), 1024, 1024, 1024, 4096),
        (named(QWEN3), 100, 100, 64, 256),
        # Gemma3Processor: mm_tokens_per_image
        (named(GEMMA3), 1024, 1024, 256, 4096),
        (named(GEMMA3), 64, 2000, 256, 4096),
        # LlavaProcessor: (336 / 14) squared, the class token left out
        (configured(LLAVA), 1024, 1024, 576, 576),
        (configured(LLAVA | {"vision_feature_select_strategy": "full"}), 1024, 1024, 577, 576),
        # PixtralProcessor: rows of patches, each with [IMG_BREAK] or [IMG_END]
        (configured(PIXTRAL_12B), 1024, 1024, 64 * 65, 4096),
        (configured(PIXTRAL_12B), 512, 256, 32 * 17, 512),
        (configured(PIXTRAL_12B), 2048, 1024, 64 * 33, 2048),
        (configured(MISTRAL_SMALL), 1540, 1540, 55 * 56, 55 * 55 * 4),
        # Llama4ImageProcessor: tiles of 336, one more of the whole where there are several; 144 tokens and a separator each
        (named(LLAMA4), 336, 336, 144, 576),
        (named(LLAMA4), 200, 200, 144, 576),
        (named(LLAMA4), 672, 672, 5 * 144 + 4, 5 * 576),
        (named(LLAMA4), 336, 672, 3 * 144 + 2, 3 * 576),
        (named(LLAMA4), 1344, 1344, 17 * 144 + 16, 17 * 576),
    ],
)
def test_images_have_the_tokens_of_their_processors(encoder, height, width, tokens, patches):
    image = encoder.encode(width, height)
    assert (image.tokens, image.patches) == (tokens, patches)


@pytest.mark.parametrize("name", [QWEN2, QWEN3, GEMMA3, LLAMA4, "Qwen/Qwen2.5-VL-72B-Instruct"])
def test_the_matrices_of_an_encoder_are_its_published_parameters(name):
    """Norms, biases and positions are what is left."""
    model, encoder = find_model(name).value, named(name)
    width, up = encoder.hidden_size, 3 if encoder.gated else 2
    matrices = encoder.layers * (4 * width**2 + up * width * encoder.intermediate_size)
    matrices += encoder.patch_numbers * width + sum(rows * columns for rows, columns in encoder.projections)
    assert matrices == pytest.approx(model.encoder_parameters, rel=0.02)
    assert matrices < model.encoder_parameters


@settings(deadline=None)
@given(width=st.integers(1, 6000), height=st.integers(1, 6000), more=st.integers(0, 500))
@pytest.mark.parametrize("encoder", [named(QWEN2), named(QWEN3), configured(PIXTRAL_12B), named(LLAMA4)])
def test_no_image_has_more_tokens_than_the_largest(encoder, width, height, more):
    if max(width, height) <= 200 * min(width, height):
        assert 1 <= encoder.encode(width, height).tokens <= encoder.most_tokens
    side = min(width, height, 3000)  # above the limits sides are rounded down, one of two neighbours by a row more
    assert encoder.encode(side + more, side + more).patches >= encoder.encode(side, side).patches


def test_a_configuration_from_elsewhere_brings_its_encoder():
    text = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
    text |= {"intermediate_size": 11008, "vocab_size": 32064, "max_position_embeddings": 4096}
    model = model_from_config(LLAVA | {"text_config": text}, "mine/llava")
    asked = with_images(model, 2, (336, 336), 100)
    assert asked.images is not None
    assert (asked.images.tokens, asked.images.prompt_len) == (1152, 1252)
    assert model.image_encoder is not None
    assert model.image_encoder.projections == ((1024, 4096), (4096, 4096))


@pytest.mark.parametrize(
    ("text", "size"), [("1024x768", (1024, 768)), (" 336 X 672 ", (336, 672)), ("10", None), ("0.5x2", None)]
)
def test_a_size_is_height_and_width(text, size):
    if size is None:
        with pytest.raises(InputError, match="HEIGHTxWIDTH"):
            read_size(text)
    else:
        assert read_size(text) == size


@pytest.mark.parametrize(
    ("name", "number", "size", "wrong"),
    [
        ("llama-3.1-8b", 1, (64, 64), "it has no image encoder"),
        ("microsoft/Phi-4-multimodal-instruct", 1, (64, 64), "how it cuts images into tokens is not known"),
        (QWEN2, 0, (64, 64), "images is 0"),
        (QWEN2, 1, (0, 64), "a side of 0 pixels"),
        (QWEN2, 1, (1, 1000), "more than 200 times"),
    ],
)
def test_what_cannot_be_asked_is_said(name, number, size, wrong):
    with pytest.raises(InputError, match=wrong):
        with_images(find_model(name).value, number, size, 10)
