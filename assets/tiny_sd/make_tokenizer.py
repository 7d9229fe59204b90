"""Trains the CLIPTokenizer of tiny_sd: byte-level BPE with CLIP's end-of-word mark on the held-in captions.

python assets/tiny_sd/make_tokenizer.py
"""

import json
from pathlib import Path

from make_common import emoji
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

HERE = Path(__file__).parent
VOCABULARY, LENGTH = 2000, 16
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def main() -> None:
    _, rows = emoji("train")
    corpus = [text for row in rows for text in (row["name"], *row["keywords"])]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), bpe.pre_tokenizer])
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - 2, end_of_word_suffix="</w>", initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    model = json.loads(bpe.to_str())["model"]
    byte_level = sorted(pre_tokenizers.ByteLevel.alphabet())
    # CLIP's layout: bytes, bytes that end a word, merges, then the two special tokens
    merges = [tuple(merge) for merge in model["merges"]]
    tokens = byte_level + [byte + "</w>" for byte in byte_level] + ["".join(merge) for merge in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, *SPECIAL]))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH, pad_token="<|endoftext|>")
    tokenizer.save_pretrained(HERE / "tokenizer")
    lengths = sorted(len(tokenizer(row["name"]).input_ids) for row in rows)
    print(len(tokenizer), "tokens; caption length median", lengths[len(lengths) // 2], "max", lengths[-1])


if __name__ == "__main__":
    main()
