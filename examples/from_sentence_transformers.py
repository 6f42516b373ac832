"""A training with sentence-transformers: only one import line says whose losses compute it.

A tiny BERT without pretrained weights learns that "three hundred twelve" and "3 1 2" are the same number. No download.

python examples/from_sentence_transformers.py            # hardmine's classes
python examples/from_sentence_transformers.py --theirs   # those of sentence-transformers, for comparison
"""

from __future__ import annotations

import argparse
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ONES += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TRAINED = 800  # of the numbers from 0 to 999


def in_words(number: int) -> str:
    """312 as ``three hundred twelve``."""
    hundreds, rest = divmod(number, 100)
    words = [ONES[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words += [TENS[rest // 10], *([ONES[rest % 10]] if rest % 10 else [])]
    elif rest or not hundreds:
        words.append(ONES[rest])
    return " ".join(words)


def in_digits(number: int) -> str:
    """312 as ``3 1 2``."""
    return " ".join(f"{number:03d}")


def tiny_model() -> SentenceTransformer:
    """A BERT of two layers, with a tokenizer of words."""
    words = [*SPECIAL, *ONES, *filter(None, TENS), "hundred", *"0123456789"]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=16,
    )
    with TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **names).save_pretrained(folder)
        BertModel(config).save_pretrained(folder)
        transformer = Transformer(folder)
    pooling = Pooling(transformer.get_embedding_dimension())
    return SentenceTransformer(modules=[transformer, pooling], device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", action="store_true", help="import the losses of sentence-transformers")
    if parser.parse_args().theirs:
        from sentence_transformers.sentence_transformer import losses
        from sentence_transformers.util import mine_hard_negatives
    else:
        from hardmine.integrations.sentence_transformers import losses, mine_hard_negatives

    torch.manual_seed(0)
    torch.set_num_threads(1)  # more threads gain nothing for so small a model
    model = tiny_model().double()  # in float32 rounding parts the two runs after some steps
    numbers = torch.randperm(1000).tolist()
    train, test = numbers[:TRAINED], numbers[TRAINED:]
    data = Dataset.from_dict({"words": [in_words(n) for n in train], "digits": [in_digits(n) for n in train]})

    def recall() -> float:
        """The share of test numbers whose digits are the most similar to their words, among all test numbers."""
        words = model.encode([in_words(n) for n in test], convert_to_tensor=True, show_progress_bar=False)
        digits = model.encode([in_digits(n) for n in test], convert_to_tensor=True, show_progress_bar=False)
        return (model.similarity(words, digits).argmax(1) == torch.arange(len(test))).double().mean().item()

    def train_on(data: Dataset, loss: torch.nn.Module, steps: int) -> None:
        with TemporaryDirectory() as folder:
            arguments = SentenceTransformerTrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=100,
                learning_rate=3e-3,
                logging_steps=steps // 4,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
            )
            trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
            trainer.train()
        losses = [f"{entry['loss']:.4f}" for entry in trainer.state.log_history if "loss" in entry]
        print(f"{type(loss).__name__}: losses {', '.join(losses)}; Recall@1 {recall():.3f}", flush=True)

    print(f"untrained: Recall@1 {recall():.3f}")
    train_on(data, losses.MultipleNegativesRankingLoss(model), steps=40)
    mined = mine_hard_negatives(data, model, range_max=20, num_negatives=2, output_format="n-tuple", verbose=False)
    train_on(mined, losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=50), steps=16)


if __name__ == "__main__":
    main()
