"""What requests have in common: system prompts, turns, sessions of a file, hashes of a trace."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.simulator.arrivals import Arrivals, open_loop
from advisor.simulator.block_hashes import block_size, sharing_of
from advisor.simulator.conversations import Conversations
from advisor.simulator.scheduler import Scheduler, serve
from advisor.simulator.session_files import read_sessions
from advisor.simulator.trace_files import read_trace
from catalog.errors import InputError
from catalog.schema import Workload
from tests.advisor.simulator.test_block_cache import said_by
from tests.advisor.simulator.test_scheduler_loop import linear_times

SCHEDULER = Scheduler(replicas=1, max_num_seqs=64, max_num_batched_tokens=2048, kv_blocks=20_000, front_end_ms=0.0)
TIMES = linear_times(2048, 64)


def chain(tokens, size):
    """Hashes of the blocks of a prompt as a trace has them, the last one perhaps of a block that is not full."""
    return [hash(tuple(tokens[: begin + size])) % 10**9 for begin in range(0, len(tokens), size)]


@st.composite
def hashed(draw):
    """Prompts that begin like others, and their hashes."""
    size = draw(st.sampled_from([16, 64, 512]))
    prompts = []
    for number in range(draw(st.integers(1, 12))):
        known = draw(st.sampled_from(prompts)) if prompts and draw(st.booleans()) else []
        kept = known[: draw(st.integers(0, len(known)))] if known else []
        prompts.append(kept + [(number, place) for place in range(draw(st.integers(1, 3 * size)))])
    return size, prompts


@settings(deadline=None, max_examples=100)
@given(case=hashed())
def test_prompts_share_the_blocks_that_their_hashes_have_in_common(case):
    size, prompts = case
    lengths = np.array([len(prompt) for prompt in prompts])
    hashes = [chain(prompt, size) for prompt in prompts]
    found = block_size(hashes, lengths)
    assert found is not None
    if found != size:  # so short that several sizes fit
        return
    said = said_by(sharing_of(hashes, lengths), lengths)
    for one in range(len(prompts)):
        for other in range(one):
            pairs = zip(hashes[one], hashes[other], strict=False)
            alike = next(
                (number for number, (a, b) in enumerate(pairs) if a != b), min(map(len, (hashes[one], hashes[other])))
            )
            shared = next(
                (number for number, (a, b) in enumerate(zip(said[one], said[other], strict=False)) if a != b),
                min(len(said[one]), len(said[other])),
            )
            assert shared == min(alike * size, lengths[one], lengths[other])


def test_hashes_that_fit_no_block_are_not_used(tmp_path):
    assert block_size([[1, 2, 3], [1]], np.array([512, 512])) is None
    path = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": i, "input_length": 600, "output_length": 4, "hash_ids": [1] * (1 + 5 * (i == 3))}
        for i in range(8)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    read = read_trace(path)
    assert read.sharing is None
    assert any("hash_ids" in note.text and note.kind == "warning" for note in read.notes)


def mooncake(path, hashes, *, text=False):
    rows = [
        {"timestamp": 1000 * i, "input_length": 1536, "output_length": 10, "hash_ids": str(each) if text else each}
        for i, each in enumerate(hashes)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_two_traces_that_differ_only_in_their_hashes_are_answered_differently(tmp_path):
    alike = mooncake(tmp_path / "alike.jsonl", [[1, 2, 10 + i] for i in range(20)])
    apart = mooncake(tmp_path / "apart.jsonl", [[100 * i, 100 * i + 1, 100 * i + 2] for i in range(20)])
    text = mooncake(tmp_path / "text.jsonl", [[1, 2, 10 + i] for i in range(20)], text=True)
    hits = {path.stem: serve(read_trace(path), TIMES, SCHEDULER).cached.tolist() for path in (alike, apart, text)}
    assert hits["alike"] == [0] + [1024] * 19
    assert hits["apart"] == [0] * 20
    assert hits["text"] == hits["alike"]


def test_a_hash_that_is_none_is_named(tmp_path):
    path = mooncake(tmp_path / "trace.jsonl", [[1, 2, 3], 7])
    with pytest.raises(InputError, match=r"request 2: hash_ids is 7; it must be a list"):
        read_trace(path)


def test_a_system_prompt_is_hit_by_all_but_the_first_of_each():
    requests = open_loop(Workload(rate=2.0, input_len=100, output_len=20), duration_s=60.0, longest=4096)
    alike = Conversations(shared_prefix=800, num_prefixes=3).beginning_alike(requests)
    served = serve(alike, TIMES, SCHEDULER)
    assert (served.input_len == 900).all()
    assert (served.cached == 0).sum() == 3
    assert set(served.cached.tolist()) == {0, 800}


def test_turns_come_as_often_as_asked_and_send_all_that_was_said():
    workload = Workload(rate=4.0, input_len=100, output_len=30)
    talks = Conversations(shared_prefix=160, turns=5, think_s=6.0)
    drawn = [talks.sessions(workload, duration_s=400.0, longest=8192, seed=seed) for seed in range(8)]
    assert np.mean([len(each) for each in drawn]) == pytest.approx(4.0 * 400, rel=0.05)
    offered = drawn[0]
    assert (np.diff(offered.arrival_s) >= 0).all()
    assert sorted(set(offered.input_len.tolist())) == [160 + 100 + 130 * turn for turn in range(5)]
    early = [each.input_len[each.arrival_s < 100].mean() for each in drawn]  # as many late turns as later
    assert np.mean(early) == pytest.approx(np.mean([each.input_len.mean() for each in drawn]), rel=0.03)
    served = serve(offered, TIMES, SCHEDULER)
    assert (served.arrival_s < 400).all()
    later = served.counted & (served.input_len > 260)
    # A turn finds all full blocks of what was said before it but the answer's last token.
    assert (served.cached[later] == (served.input_len[later] - 101) // 16 * 16).mean() > 0.98


def test_a_turn_waits_for_its_answer():
    offered = Conversations(turns=4, think_s=0.5).sessions(
        Workload(rate=3.0, input_len=50, output_len=300), duration_s=60.0, longest=8192
    )
    served = serve(offered, TIMES, SCHEDULER)
    sharing = offered.sharing
    assert sharing.follows
    ends = {}
    for arrival, prompt, e2e, answer in zip(
        served.arrival_s, served.input_len, served.e2e_ms, served.output_len, strict=True
    ):
        ends.setdefault(int(prompt + answer), []).append(arrival + 1e-3 * e2e)
    for arrival, prompt in zip(served.arrival_s, served.input_len, strict=True):
        if prompt > 50 and arrival > 5:
            assert min(ends[int(prompt) - 50]) <= arrival


def test_a_part_of_the_requests_shares_what_it_shared():
    offered = Conversations(shared_prefix=64, turns=3, think_s=1.0).sessions(
        Workload(rate=3.0, input_len=50, output_len=20), duration_s=30.0, longest=8192
    )
    short = offered.fitting(64 + 50 + 20 + 70)
    assert len(short) < len(offered)
    said = said_by(offered.sharing, offered.input_len + offered.output_len)
    chosen = [said[number] for number in np.flatnonzero(offered.input_len + offered.output_len <= 204)]
    assert said_by(short.sharing, short.input_len + short.output_len) == chosen
    assert (short.sharing.after < np.arange(len(short))).all()


def write(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


AGENT = [
    {"session": "root", "prefix": "tools", "prefix_len": 640, "turns": [{"input_len": 100, "output_len": 60}, {"input_len": 40, "output_len": 60, "wait_s": 2}]},
    {"session": "one", "parent": "root", "parent_turns": 1, "turns": [{"input_len": 32, "output_len": 16, "wait_s": 0.5}]},
    {"session": "two", "parent": "root", "turns": [{"input_len": 32, "output_len": 16}, {"input_len": 16, "output_len": 16}]},
    {"start_s": 30, "prefix": "tools", "prefix_len": 640, "turns": [{"input_len": 5, "output_len": 7}]},
]  # fmt: off


def test_sessions_of_a_file_grow_wait_and_branch(tmp_path):
    offered = read_sessions(write(tmp_path / "agents.jsonl", AGENT))
    served = serve(offered, TIMES, SCHEDULER)
    by_prompt = {int(prompt): number for number, prompt in enumerate(served.input_len)}
    assert sorted(by_prompt) == [645, 740, 832, 840, 932, 964]
    end = served.arrival_s + 1e-3 * served.e2e_ms
    assert served.arrival_s[by_prompt[840]] == pytest.approx(end[by_prompt[740]] + 2.0)
    assert served.arrival_s[by_prompt[832]] == pytest.approx(end[by_prompt[740]] + 0.5)
    assert served.arrival_s[by_prompt[932]] == pytest.approx(end[by_prompt[840]])
    assert served.arrival_s[by_prompt[964]] == pytest.approx(end[by_prompt[932]])
    cached = {prompt: int(served.cached[number]) for prompt, number in by_prompt.items()}
    # What the first branch has computed again, the block of the answer's last token, the next turn finds.
    assert cached == {740: 0, 832: 784, 840: 800, 932: 896, 964: 944, 645: 640}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is no JSON"),
        ("[]", "line 1: a session is an object with turns"),
        ({"turns": []}, "a session is an object with turns"),
        ({"turns": [3]}, "a turn is 3"),
        ({"turn": [], "turns": [{"input_len": 1, "output_len": 1}]}, "there is no 'turn'"),
        ({"turns": [{"input_len": 1, "output": 1}]}, "there is no 'output'; closest: output_len"),
        ({"turns": [{"input_len": 0, "output_len": 1}]}, "input_len is 0; it must be a whole number from 1"),
        ({"turns": [{"input_len": 1, "output_len": 1, "wait_s": -1}]}, "wait_s is -1"),
        ({"parent": "x", "turns": [{"input_len": 1, "output_len": 1}]}, "there is no session 'x' before it"),
    ],
)
def test_a_line_that_is_no_session_is_named(tmp_path, line, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        read_sessions(write(tmp_path / "sessions.jsonl", [line]))


def test_sessions_are_stretched_and_cut(tmp_path):
    path = write(tmp_path / "sessions.jsonl", AGENT)
    assert len(read_sessions(path, duration_s=10.0)) == 5
    whole = read_sessions(path)
    assert read_sessions(path, rate=2.0).rate == pytest.approx(2.0)
    assert read_sessions(path, rate=2.0).arrival_s[-1] < whole.arrival_s[-1]
    with pytest.raises(InputError, match="cannot read the sessions"):
        read_sessions(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"turns": 0}, "turns is 0"),
        ({"turns": 2, "think_s": -1.0}, "think_time is -1 s"),
        ({"num_prefixes": 4}, "say how long they are with shared_prefix"),
    ],
)
def test_conversations_that_cannot_be_are_refused(given_, message):
    with pytest.raises(InputError, match=message):
        Conversations(**given_).check()


def test_all_at_once_copies_share_only_system_prompts():
    offered = Conversations(shared_prefix=64, turns=2, think_s=1.0).sessions(
        Workload(rate=3.0, input_len=50, output_len=20), duration_s=10.0, longest=8192
    )
    n = len(offered)
    twice = offered.sharing.all_at_once(np.arange(2 * n))
    lengths = np.tile(offered.input_len, 2)
    said = said_by(twice, lengths)
    assert said[:n] == said_by(offered.sharing, offered.input_len)
    for number in range(n):
        assert said[number][:64] == said[n + number][:64]
        assert said[number][64] != said[n + number][64]
    assert not twice.follows
    queue = Arrivals(
        arrival_s=np.zeros(2 * n),
        input_len=lengths,
        output_len=np.tile(offered.output_len, 2),
        duration_s=1.0,
        sharing=twice,
    )
    assert len(serve(replace(queue), TIMES, SCHEDULER)) == 2 * n
