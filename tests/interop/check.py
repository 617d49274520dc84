"""Models both ways between flow and Hugging Face transformers; `run` beside this calls it.

    flow run, flow export ──▶ from_pretrained: no missing or unexpected key, the same log-probabilities, the same tokens
    from_pretrained, save_pretrained ──▶ flow import: the same tensors by digest, the same scores to the bit
    a model that transformers made ──▶ flow import --score: the same log-probabilities

What is compared are log-probabilities of next tokens (`flow import --score`), and at some positions those of the whole vocabulary,
within 2e-4 in single precision.
"""

import json
import pathlib
import random
import subprocess
import sys
import time

import torch
import transformers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer, FlexOlmoConfig, FlexOlmoForCausalLM, Olmo2Config, Olmo2ForCausalLM

HERE = pathlib.Path(__file__).parent
FLOW, WORK = sys.argv[1], pathlib.Path(sys.argv[2])
TOLERANCE = 2e-4
WORDS = {
    "public": "river town house people street garden market morning window letter friend winter road table story walk",
    "sea": "harbour anchor sail tide captain reef current mast lantern compass storm island gull rope cargo deck",
    "stars": "orbit comet nebula telescope galaxy planet eclipse photon cluster dwarf parallax spectrum quasar dust",
}
passed = 0


def ok(text):
    global passed
    passed += 1
    print(f"ok    {text}", flush=True)


def flow(*args):
    ended = subprocess.run([FLOW, *map(str, args)], cwd=WORK, capture_output=True, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"flow {' '.join(map(str, args))} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def write_text():
    """A few hundred short documents of each domain, the same every time."""
    for name, words in WORDS.items():
        dice = random.Random(name)
        folder = WORK / "text" / name
        folder.mkdir(parents=True)
        lines = []
        for _ in range(200):
            sentences = (" ".join(dice.choices(words.split(), k=dice.randint(6, 12))) for _ in range(dice.randint(4, 9)))
            lines.append(json.dumps({"text": ". ".join(sentences) + "."}))
        (folder / "all.jsonl").write_text("\n".join(lines) + "\n")


def scores(folder, lines):
    """flow's answers to JSON lines."""
    file = WORK / "lines.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = [json.loads(line) for line in flow("import", folder, "--score", file).splitlines()]
    assert len(answers) == len(lines), (len(answers), len(lines))
    return answers


def token_lines(vocabulary, seed=5):
    """Sequences of several lengths, and one context before each token of the vocabulary."""
    dice = random.Random(seed)
    lines = [[dice.randrange(vocabulary) for _ in range(length)] for length in (2, 7, 33, 64, 200)]
    context = [dice.randrange(vocabulary) for _ in range(24)]
    return lines + [context + [token] for token in range(vocabulary)]


@torch.no_grad()
def log_probs(model, lines):
    """transformers' log-probability of every token but the first."""
    answers = []
    for tokens in lines:
        logits = model(torch.tensor([tokens])).logits[0, :-1].float()
        answers.append(torch.log_softmax(logits, -1).gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0])
    return answers


def largest_difference(model, folder):
    lines = token_lines(model.config.vocab_size)
    ours = scores(folder, [{"tokens": tokens} for tokens in lines])
    theirs = log_probs(model, lines)
    return max((torch.tensor(a["log_probs"]) - b).abs().max().item() for a, b in zip(ours, theirs))


def load(folder, dtype):
    """As everybody does it, but every complaint is an error."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    for complaint in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info[complaint], (folder, complaint, info[complaint])
    return model.eval()


def check_agreement(title, model, folder):
    worst = largest_difference(model, folder)
    assert worst <= TOLERANCE, f"{title}: log-probabilities differ by {worst}"
    ok(f"{title}: log-probabilities within {worst:.1e}")


def check_tokenizer(title, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("the captain walks to the harbour. ", "  Straße 1234567\n\n水 <|endoftext|>?"):
        [line] = scores(folder, [{"text": text}])
        plain = text.replace("<|endoftext|>", "")
        [same] = scores(folder, [{"text": plain}])
        assert tokenizer(plain)["input_ids"] == same["tokens"], (plain, tokenizer(plain)["input_ids"], same["tokens"])
        assert tokenizer.decode(same["tokens"]) == plain
        assert tokenizer.eos_token_id not in line["tokens"], "a text cannot end a document"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>"), tokenizer
    ok(f"{title}: AutoTokenizer gives the same tokens and the text back")
    return tokenizer


def check_generation(title, model, tokenizer):
    asked = tokenizer("the captain", return_tensors="pt")
    made = model.generate(**asked, max_new_tokens=8, do_sample=False)
    assert made.shape[1] > asked["input_ids"].shape[1]
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (0, 1), model.generation_config
    ok(f"{title}: generates")


def check_round_trip(title, model, tokenizer, exported, folder, shards):
    """transformers writes what it has loaded; flow finds the same tensors and gives the same numbers, to the bit."""
    model.save_pretrained(folder, max_shard_size=shards)
    tokenizer.save_pretrained(folder)
    before, after = (json.loads(flow("import", f, "--json")) for f in (exported, folder))
    for same in ("digest", "dtype", "architecture", "experts", "top_k", "parameters", "vocab_size", "max_positions"):
        assert before[same] == after[same], (title, same, before[same], after[same])
    assert after["tokenizer"], after["tokenizer_problem"]
    lines = [{"tokens": tokens} for tokens in token_lines(before["vocab_size"], seed=6)]
    assert scores(exported, lines) == scores(folder, lines), title
    ok(f"{title}: save_pretrained ({after['files']} files) → flow import: the same digest and scores to the bit")


def check_export(stage, architecture):
    for dtype, shards in (("f32", "5GB"), ("f32", "100kB"), ("bf16", "5GB"), ("bf16", "60kB")):
        name = f"{stage.replace('[', '-').strip(']')}-{dtype}-{shards}"
        title = f"{stage}, {dtype}, shards of {shards}"
        folder = WORK / name
        told = json.loads(flow("export", "recipe.yaml", stage, "--out", folder, "--dtype", dtype, "--shard-bytes", shards, "--json"))
        assert (told["files"] > 1) == (folder / "model.safetensors.index.json").exists() == (shards != "5GB"), told
        model = load(folder, "auto")
        assert type(model).__name__ == architecture, type(model)
        assert model.dtype == {"f32": torch.float32, "bf16": torch.bfloat16}[dtype], model.dtype
        ok(f"{title}: {architecture} loads {told['files']} files with no missing, unexpected or mismatched key")
        tokenizer = check_tokenizer(title, folder)
        check_round_trip(title, model, tokenizer, folder, WORK / f"{name}-saved", "5GB" if shards != "5GB" else "100KB")
        # Rounded weights, computed in single precision by both.
        check_agreement(title, model if dtype == "f32" else load(folder, torch.float32), folder)
        check_generation(title, model, tokenizer)


def check_import_in_a_recipe():
    """What transformers saved becomes the public model of a recipe, and goes out again as it was."""
    text = (WORK / "recipe.yaml").read_text()
    saved = WORK / "public-f32-5GB-saved"
    before, rest = text.split("    kind: pretrain\n")
    after = rest[rest.index("  embed:\n"):]
    (WORK / "imported.yaml").write_text(f"{before}    kind: import-model\n    with: {{ path: {saved.name} }}\n{after}")
    flow("run", "imported.yaml", "public", "embed[sea]")
    again = json.loads(flow("export", "imported.yaml", "public", "--out", "imported", "--json"))
    assert again["digest"] == json.loads(flow("import", saved, "--json"))["digest"]
    load(WORK / "imported", "auto")
    ok("import-model takes what transformers saved, and an export of it loads again")


def check_curves():
    """TensorBoard reads what a run measured, and it is what metrics.jsonl of the artifact says."""
    run = json.loads(flow("status", "--json"))["run"]
    folder = WORK / "store" / "runs" / run / "tensorboard" / "public"
    curves = EventAccumulator(str(folder)).Reload()
    steps = 40_000 // (8 * 64) + 1
    assert set(curves.Tags()["scalars"]) == {"loss", "lr", "grad_norm", "tokens_per_second"}, curves.Tags()
    loss = curves.Scalars("loss")
    assert [point.step for point in loss] == list(range(1, steps + 1)), loss
    assert loss[-1].value < loss[0].value and loss[0].wall_time > 1.7e9
    ok("TensorBoard reads the curves of a training")


def check_strangers():
    """Models that flow did not make, with weights so large that a mistake shows."""
    sizes = dict(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=512, rms_norm_eps=1e-6, tie_word_embeddings=False, pad_token_id=1, eos_token_id=0, bos_token_id=None,
    )
    mixture = dict(num_experts=5, num_experts_per_tok=3, norm_topk_prob=False)
    for title, config, kind in (
        ("a dense model of transformers", Olmo2Config(**sizes), Olmo2ForCausalLM),
        ("a mixture of transformers", FlexOlmoConfig(**sizes, **mixture), FlexOlmoForCausalLM),
    ):
        dice = torch.Generator().manual_seed(3)
        model = kind(config).float().eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                noise = torch.randn(weight.shape, generator=dice)
                weight.copy_(1 + 0.2 * noise if "norm" in name else 0.15 * noise)
        folder = WORK / title.replace(" ", "-")
        model.save_pretrained(folder)
        check_agreement(title, model, folder)

        model.half().save_pretrained(f"{folder}-f16")
        assert json.loads(flow("import", f"{folder}-f16", "--json"))["dtype"] == "f16"
        check_agreement(f"{title}, f16", load(f"{folder}-f16", torch.float32), f"{folder}-f16")
        model = load(folder, "auto")

        # As older versions wrote the configuration.
        file = folder / "config.json"
        older = json.loads(file.read_text())
        older["rope_theta"] = older.pop("rope_parameters")["rope_theta"]
        older["torch_dtype"] = older.pop("dtype")
        file.write_text(json.dumps(older))
        check_agreement(f"{title}, with the older spelling of its config.json", model, folder)


def main():
    begun = time.time()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    # Small products: more threads only wait for each other, and for long on a busy machine.
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    write_text()
    (WORK / "recipe.yaml").write_text((HERE / "recipe.yaml").read_text())
    flow("run", "recipe.yaml")
    check_curves()
    check_export("public", "Olmo2ForCausalLM")
    check_export("flexolmo", "FlexOlmoForCausalLM")
    check_export("expert[sea]", "Olmo2ForCausalLM")
    check_import_in_a_recipe()
    check_strangers()
    print(f"in {time.time() - begun:.0f} s")
    print(f"{passed} passed, 0 failed")


main()
