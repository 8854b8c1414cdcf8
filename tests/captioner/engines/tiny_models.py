"""Tiny transformers models with random weights, saved with their processors in the format of the Hub."""

import json
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = [f"word{number}" for number in range(53)]
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>"]
SPECIAL += ["<|vision_end|>", "USER:", "ASSISTANT:"]
SPECIAL += ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
SPECIAL += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
VOCABULARY = {word: index for index, word in enumerate([*WORDS, "<unk>", *SPECIAL])}
PAD, BOS, EOS = VOCABULARY["<pad>"], VOCABULARY["<s>"], VOCABULARY["</s>"]
NOT_WORDS = [VOCABULARY[word] for word in ("<unk>", *SPECIAL) if word != "</s>"]
TEXT = {"vocab_size": len(VOCABULARY), "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}USER: IMAGE {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}ASSISTANT:"
)


def tokenizer(**options):
    words = {word: VOCABULARY[word] for word in (*WORDS, "<unk>")}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.add_special_tokens(SPECIAL)
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[3:],
        padding_side="left",
        **options,
    )


def image_size(side=32):
    return {"height": side, "width": side}


def save(folder, model, processor):
    """Save a model with peaked distributions, so that greedy captions differ between images."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 2.0 * parameter.flatten(1).shape[1] ** -0.5)
            elif "bias" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
            elif "embedding" in name:
                parameter.copy_(torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def only_words(folder):
    """Let a saved model generate words, at least one: random weights often begin with special tokens."""
    path = Path(folder) / "generation_config.json"
    changes = {"suppress_tokens": NOT_WORDS, "begin_suppress_tokens": [EOS]}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def blip(folder):
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = TEXT | {"eos_token_id": EOS, "sep_token_id": EOS, "encoder_hidden_size": 16, "projection_dim": 16}
    config = hf.BlipConfig(
        text_config=layers | text, vision_config=layers | {"image_size": 32, "patch_size": 16}
    )
    images = hf.BlipImageProcessor(size=image_size())
    return save(folder, hf.BlipForConditionalGeneration(config), hf.BlipProcessor(images, tokenizer()))


def git(folder):
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.GitConfig(**layers, **TEXT, vision_config=layers | {"image_size": 32, "patch_size": 16})
    images = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=image_size())
    return save(folder, hf.GitForCausalLM(config), hf.GitProcessor(images, tokenizer()))


def llava(folder):
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = hf.CLIPVisionConfig(**layers, image_size=32, patch_size=16)
    text = hf.LlamaConfig(**layers, **TEXT)
    config = hf.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=VOCABULARY["<image>"], image_seq_length=4
    )
    images = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=image_size())
    processor = hf.LlavaProcessor(
        images,
        tokenizer(),
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )
    return save(folder, hf.LlavaForConditionalGeneration(config), processor)


def qwen2_vl(folder):
    text = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {"embed_dim": 16, "hidden_size": 16, "depth": 1, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2}
    config = hf.Qwen2VLConfig(
        text_config=text | TEXT,
        vision_config=vision,
        image_token_id=VOCABULARY["<|image_pad|>"],
        video_token_id=VOCABULARY["<|video_pad|>"],
        vision_start_token_id=VOCABULARY["<|vision_start|>"],
        vision_end_token_id=VOCABULARY["<|vision_end|>"],
    )
    limits = {"patch_size": 8, "min_pixels": 16 * 16, "max_pixels": 64 * 64}
    processor = hf.Qwen2VLProcessor(
        hf.Qwen2VLImageProcessor(**limits),
        tokenizer(),
        hf.Qwen2VLVideoProcessor(**limits),
        chat_template=CHAT.replace("IMAGE", "<|vision_start|> <|image_pad|> <|vision_end|>"),
    )
    return save(folder, hf.Qwen2VLForConditionalGeneration(config), processor)


def idefics3(folder):
    """The architecture of SmolVLM, which cuts large images into tiles."""
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.Idefics3Config(
        text_config=hf.LlamaConfig(**layers, **TEXT),
        vision_config=layers | {"image_size": 32, "patch_size": 8},
        image_token_id=VOCABULARY["<image>"],
        scale_factor=2,
    )
    processor = hf.Idefics3Processor(
        hf.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        tokenizer(),
        image_seq_len=4,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )
    return save(folder, hf.Idefics3ForConditionalGeneration(config), processor)


def florence2(folder):
    vision = hf.Florence2VisionConfig(
        embed_dim=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 2, 2],
        num_groups=[2, 2, 2, 2],
        window_size=2,
        projection_dim=16,
        max_position_embeddings=16,
    )
    layers = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64}
    layers |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    layers |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_start_token_id": EOS}
    text = hf.BartConfig(**layers, **TEXT, forced_eos_token_id=EOS)
    config = hf.Florence2Config(text_config=text, vision_config=vision, image_token_id=VOCABULARY["<image>"])
    images = hf.CLIPImageProcessor(size=image_size(64), do_center_crop=False)
    images.image_seq_length = 5
    words = tokenizer(extra_special_tokens={"image_token": "<image>"})
    return save(folder, hf.Florence2ForConditionalGeneration(config), hf.Florence2Processor(images, words))
