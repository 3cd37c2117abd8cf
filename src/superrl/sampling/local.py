"""The in-process engine: continuous batching over a fixed number of slots, for any causal model of transformers.

One forward pass draws one token for every row in a slot; a finished row leaves and a waiting one joins. The prefix of a
prompt (all but its last token) is computed once, what it has in common with others included, and copied into the slots
of its completions, or where that pays held beside them once for all (`trunks`); the last prompt token is a row's first
input, so every log-probability comes out of the same kind of pass.

`deterministic=True`: tokens and log-probabilities of a completion are bit-equal whatever else is sampled, in whatever
order. Results of a kernel depend on its shapes, so shapes depend on nothing but the row itself: always all slots (idle
ones compute and are ignored), prefills of fixed size, key lengths from the row's own length. `deterministic=False` does
the same work on the active rows only, each with the keys it has and, for the common architectures, by `lean`'s forward
pass instead of transformers' own: equal up to rounding.

Leaves out paging, speculative decoding and anything across processes: that is what `vllm.py` is for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superrl.errors import Diverged, RunError, UserError
from superrl.models import first_line
from superrl.records import Stop, Trajectory
from superrl.sampling.draw import draw
from superrl.sampling.lean import fitting, kernels_for
from superrl.sampling.native import Kernels
from superrl.sampling.prefixes import Prefixes
from superrl.sampling.probe import Served, allowed, check, distance, serve, shaken
from superrl.sampling.protocol import Prompt, SamplingLimits, room
from superrl.sampling.recorded import Recorded, Recorder
from superrl.sampling.slots import Decode, Piece, Prefill, SlotCache, bucket
from superrl.sampling.stops import StopStrings, decode
from superrl.sampling.table import Row, SlotTable
from superrl.sampling.trunks import Trunks
from superrl.truncation import Truncation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS_MULTIPLE = 16
"""In a matmul of few or ragged rows a row's result depends on its place (float32, two threads, rows 5 and 7)."""
SMALLEST_KEYS = 32
"""Keys are read up to `bucket` of a row's length, from this length on."""
WHOLE_KEYS = 32
"""Below float32 a CPU's batched product copies keys that are only a part of the cache, at the cost of reading them
twice. So there the cache grows with its longest row, by so many keys, and is read whole."""
COMMON, COMMON_NATIVE, COMMON_ON_DEVICE = 160, 64, 1024
"""From how many tokens of a prompt on its completions read them together: on a CPU by torch and by our own kernel
(measured), elsewhere (not)."""
UNEVEN = 2
"""How many times the mean the longest of such prompts may have."""
READ_ROWS = 64
"""Attention on the CPU treats so many rows in a call; a GPU prefers one call."""


class LocalSampler:
    """The owner of a copy of the model and of its key/value cache.

    `model` becomes the sampler's: it is cast to `compute_dtype`, put into eval mode, and its config names another
    attention, so hand over a deep copy, never a model that shares parameters or config with the learner's.
    `slots` is how many completions are drawn at once; `max_length` caps prompt plus completion below the model's own
    context length; `record` makes recordings of decode steps, which are replayed from then on (`recorded`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eos_ids: Sequence[int],
        slots: int = 64,
        deterministic: bool = True,
        compute_dtype: torch.dtype = torch.float32,
        max_length: int | None = None,
        record: Recorder | None = None,
    ) -> None:
        if slots < 1:
            raise UserError(f"the sampler needs at least one slot, got {slots}")
        model.eval().requires_grad_(False)
        for parameter in model.parameters():  # not model.to(): rotary frequencies stay float32
            parameter.data = parameter.data.to(compute_dtype)
        self.version = 0
        self._sleeps = False
        self.deterministic = deterministic
        multiple = (READ_ROWS if slots > READ_ROWS else ROWS_MULTIPLE) if deterministic else 1
        self.slots = -(-slots // multiple) * multiple
        context: int = model.config.get_text_config().max_position_embeddings
        self.max_length = context if max_length is None else min(max_length, context)
        self._model = model
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_ids)
        self._device = next(model.parameters()).device
        self._read_rows = min(self.slots, READ_ROWS) if self._device.type == "cpu" else self.slots
        with shaken(model):
            served = serve(model)
            self._recorded: Recorded | None = None
            kernels = None if deterministic or record is not None else kernels_for(model)
            self._open(served, kernels)
            found = self._replay(served.tokens)
            if kernels is not None and not (self._native and distance(served, found) <= allowed(model)):
                self._open(served, None)
                found = self._replay(served.tokens)
            check(model, served, found)
        self._laid: set[int] = set()
        if self._lean is not None:
            self._lean.lay({})
            self._laid = self._lean.forget_originals()
        if record is not None:
            if self._lean is None:
                raise UserError(
                    f"sampler.graphs: {type(model).__name__} has no forward pass of fixed shapes here: leave graphs out"
                )
            self._recorded = Recorded(self._forward, self._cache, record)

    def _open(self, served: Served, kernels: Kernels | None) -> None:
        """Choose the forward pass, and make what it reads."""
        self._lean = None if self.deterministic else fitting(self._model, served, kernels)
        self._native = self._lean is not None and self._lean.native
        on_cpu = self._device.type == "cpu"
        grows = on_cpu and not (self.deterministic or self._native) and self._model.dtype != torch.float32
        self._whole = WHOLE_KEYS if grows else 0
        self._common = COMMON_ON_DEVICE if not on_cpu else COMMON_NATIVE if self._native else COMMON
        self._cache = SlotCache(self.slots, served.windows, masked=not self._native)
        self._prefixes = Prefixes(self._prefill, served.windows, deterministic=self.deterministic)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copy the learner's weights in, cast; a tied parameter may come under one or all of its names."""
        names: dict[str, Tensor] = dict(self._model.named_parameters(remove_duplicate=False))
        saved = self._model.state_dict().keys()
        names |= {name: buffer for name, buffer in self._model.named_buffers() if name in saved}
        if unknown := sorted(set(weights) - set(names)):
            raise RunError(f"the learner sent {len(unknown)} weights the sampler does not have, first: {unknown[0]!r}")
        given = {id(names[name]) for name in weights}
        if missing := [name for name, parameter in names.items() if id(parameter) not in given]:
            raise RunError(f"the learner left out {len(missing)} of the sampler's weights, first: {missing[0]!r}")
        for name, weight in weights.items():
            if weight.shape != names[name].shape:
                raise RunError(f"{name!r} has shape {list(weight.shape)}, the sampler's {list(names[name].shape)}")
        first: dict[int, str] = {}
        for name, weight in weights.items():
            other = first.setdefault(id(names[name]), name)
            if weight.data_ptr() != weights[other].data_ptr() and not torch.equal(weight, weights[other]):
                raise RunError(f"{name!r} and {other!r} are one weight to the sampler, but the learner's differ")
        with torch.no_grad():
            for name, weight in weights.items():
                if id(names[name]) not in self._laid:
                    names[name].copy_(weight)
            if self._lean is not None:
                self._lean.lay({id(names[name]): weight for name, weight in weights.items()})
        self._prefixes.forget()
        self.version = version
        self._sleeps = False

    def sleep(self) -> None:
        """Give the caches' memory back, and that of weights which `load` lays out anew; those of recordings stay."""
        if self._recorded is None:
            self.close()
            if self._lean is not None:
                self._lean.forget()
                self._sleeps = True

    def close(self) -> None:
        """Give the caches' memory back."""
        self._cache.clear()
        self._prefixes.forget()

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[Prompt], limits: SamplingLimits, on_tokens: Callable[[int], None] | None = None
    ) -> list[list[Trajectory]]:
        """One list of `n` trajectories a prompt, in the order given. `on_tokens(k)` hears that k tokens were drawn."""
        assert not self._sleeps, "a sampler that sleeps is woken by `load`"
        groups = [self._rows(prompt, limits) for prompt in prompts]
        rows = [row for group in groups for row in group]
        waiting = deque(
            sorted(rows, key=lambda row: len(row.prefix), reverse=True)
        )  # neighbours of one length: less work
        trunks = self._trunks(prompts)
        own = (row.budget + (len(row.prompt.tokens) if trunks is None else 1) for row in rows)
        longest = max(own, default=1)
        if self._native:
            self._cache.begin(longest, longest)
        elif self._whole:
            self._cache.begin(self._rounded(longest))
        else:
            self._cache.reserve(bucket(longest, SMALLEST_KEYS))
        self._prefixes.want(row.prefix for row in waiting)
        table = SlotTable(self.slots, limits.max_new_tokens, trunks)
        stops = StopStrings(self._tokenizer, limits.stop)
        while waiting or len(table):
            self._admit(waiting, table)
            if on_tokens is not None:
                on_tokens(len(table))
            self._step(table, stops, limits.truncation)
            for slot, row in table.occupied():
                if row.stop is not None:
                    table.remove(slot)
        if self._whole or self._native:  # it begins anew with the next call: until then the learner needs the memory
            self._cache.clear()
        return [[self._trajectory(row) for row in group] for group in groups]

    def _rows(self, prompt: Prompt, limits: SamplingLimits) -> list[Row]:
        budget = room(prompt, limits, self.max_length)
        return [Row(prompt, sample, budget) for sample in range(prompt.n)]

    def _trunks(self, prompts: Sequence[Prompt]) -> Trunks | None:
        """Room for what the rows of each prompt have in common, where that is enough to be read by itself and of about
        one length: torch reads every trunk as far as the longest one goes."""
        lengths = {prompt.tokens[:-1]: len(prompt.tokens) - 1 for prompt in prompts}
        alone = any(prompt.n < 2 or len(prompt.tokens) < 2 for prompt in prompts)
        if self.deterministic or self._recorded is not None or alone or not prompts:
            return None
        tokens, longest = sum(lengths.values()), max(lengths.values())
        uneven = longest * len(lengths) > UNEVEN * tokens and not self._native
        if tokens < self._common * len(lengths) or uneven:
            return None
        room = -(-longest // WHOLE_KEYS) * WHOLE_KEYS
        return Trunks(self._cache.windows, min(len(lengths), self.slots), room, masked=not self._native)

    def _admit(self, waiting: deque[Row], table: SlotTable) -> None:
        """Waiting rows take the idle slots."""
        joining: dict[tuple[int, ...], list[int]] = {}
        for slot in table.free()[: len(waiting)]:
            row = waiting.popleft()
            table.put(slot, row)
            if row.prefix:
                joining.setdefault(row.prefix, []).append(slot)
        self._make_room(table)
        for prefix, slots in joining.items():
            room = self._prefixes.take(prefix, len(slots))
            if table.trunks is None:
                self._cache.admit(slots, self._prefixes.cache, room, len(prefix))
            else:
                table.trunk[slots] = table.trunks.join(prefix, len(slots), self._prefixes.cache, room)
        if not self.deterministic:
            self._compact(table)

    def _make_room(self, table: SlotTable) -> None:
        """A cache that grows holds at least all keys of the next pass."""
        if self._whole and len(table):
            self._cache.grow(self._rounded(int(self._lengths(table).max())))

    def _rounded(self, keys: int) -> int:
        """So many keys in a cache that grows by a few at once."""
        return -(-keys // self._whole) * self._whole

    def _prefill(self, pieces: Sequence[Piece], columns: int) -> None:
        """One pass over pieces of prefixes, which writes their keys and values into the prefixes' rooms."""
        tokens, positions = np.zeros((1, columns), dtype=np.int64), np.zeros((1, columns), dtype=np.int64)
        column = 0
        for piece in pieces:
            tokens[0, column : column + len(piece.tokens)] = piece.tokens
            positions[0, column : column + piece.width] = np.arange(piece.start, piece.start + piece.width)
            column += piece.width
        positions = np.minimum(positions, self.max_length - 1)
        fused = not self.deterministic and self._device.type != "cpu"
        work = Prefill(self._prefixes.cache, pieces, fused)
        self._forward(torch.from_numpy(tokens).to(self._device), torch.from_numpy(positions).to(self._device), work)

    def _step(self, table: SlotTable, stops: StopStrings, truncation: Truncation | None) -> None:
        """One forward pass, one token for every active row."""
        logits = self._logits(table)
        width = len(logits)
        uniform, temperature = torch.from_numpy(np.stack([table.uniform(), table.temperature])[:, :width]).to(
            self._device
        )
        draws = draw(logits, uniform, temperature, truncation)
        tokens, logps, entropies = torch.stack(draws).cpu().numpy()
        ids = tokens.astype(np.int64)
        if not np.isfinite(logps[table.active[:width]]).all():
            self._cache.clear()
            self._prefixes.forget()
            raise Diverged("the sampler's model produced logits that are not finite; the weights have diverged")
        table.advance(ids)
        token_list, logp_list, entropy_list = ids.tolist(), logps.tolist(), entropies.tolist()
        for slot, row in table.occupied():
            row.completion.append(token_list[slot])
            row.logp.append(logp_list[slot])
            row.entropy += entropy_list[slot]
            row.stop = self._stop(row, stops)

    def _logits(self, table: SlotTable) -> Tensor:
        """[n, vocabulary] of the next token of every active row, which are the first; if deterministic of all slots."""
        width = self.slots if self.deterministic else len(table)
        rows = np.stack([table.inputs, table.positions, table.places])[:, :width]
        inputs, positions, places = torch.from_numpy(rows).to(self._device)
        lengths = self._lengths(table)[:width]
        if self._recorded is not None:
            return self._recorded(inputs[:, None], positions[:, None], int(lengths.max()))
        if self.deterministic:
            work = Decode.over(self._cache, places, lengths, self._read_rows)
        else:
            before = None if table.trunks is None else table.trunks.read(table.trunk[:width], positions)
            if self._native:
                work = Decode.alone(self._cache, places, before)
            else:
                work = Decode.grouped(self._cache, places, lengths, self._whole, before)
        return self._forward(inputs[:, None], positions[:, None], work)

    def _forward(self, tokens: Tensor, positions: Tensor, work: Prefill | Decode) -> Tensor:
        """The logits of the last column, [rows, vocabulary]."""
        if self._lean is not None:
            return self._lean(tokens, positions, work, work.cache.windows)
        output = self._model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=work,
            use_cache=True,
            logits_to_keep=1,
            slot_pass=work,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def _replay(self, tokens: tuple[int, ...]) -> Tensor:
        """The logits [L // 2, V] after the second half of a row, token by token, with the first half as a prefix."""
        prefix, found = tokens[: len(tokens) // 2], []
        self._cache.reserve(SMALLEST_KEYS)
        self._prefixes.want([prefix])
        try:
            self._cache.admit([0], self._prefixes.cache, self._prefixes.take(prefix, 1), len(prefix))
            for position in range(len(prefix), len(tokens)):
                row = Row(Prompt(tokens[: position + 1], 1, ()), 0, 1)
                table = SlotTable(self.slots if self.deterministic else 1, 1)
                table.put(0, row)
                found.append(self._logits(table)[0])
        except (AttributeError, LookupError, TypeError) as error:
            raise UserError(
                f"{type(self._model).__name__} asks more of its cache than the local sampler has "
                f"({first_line(error)}); use another engine"
            ) from error
        self._prefixes.forget()
        return torch.stack(found)

    def _lengths(self, table: SlotTable) -> NDArray[np.int64]:
        """How many keys each slot reads: its own, in deterministic mode up to their bucket; 0 for idle ones."""
        lengths = np.where(table.active, table.places + 1, 0)
        if not self.deterministic:
            return lengths
        sizes = {int(length): bucket(int(length), SMALLEST_KEYS) for length in np.unique(lengths) if length > 0}
        return np.array([sizes.get(int(length), 0) for length in lengths], dtype=np.int64)

    def _stop(self, row: Row, stops: StopStrings) -> Stop | None:
        if row.completion[-1] in self._eos:
            return "eos"
        if stops.completed(row.completion):
            return "stop"
        return "length" if len(row.completion) == row.budget else None

    def _compact(self, table: SlotTable) -> None:
        """The last rows fill the holes, so that the active ones are the first."""
        count = len(table)
        sources = [slot for slot, _ in table.occupied() if slot >= count]
        for source, target in zip(sources, table.free(), strict=False):
            self._cache.move(source, target, int(table.places[source]))
            table.move(source, target)

    def _trajectory(self, row: Row) -> Trajectory:
        prompt, drawn = row.prompt, len(row.completion)
        assert row.stop is not None, "a row that has not finished"
        return Trajectory(
            tokens=prompt.tokens + tuple(row.completion),
            loss_mask=(False,) * len(prompt.tokens) + (True,) * drawn,
            logp_sampler=(0.0,) * len(prompt.tokens) + tuple(row.logp),
            text=decode(self._tokenizer, row.completion),
            origin="policy",
            version=self.version,
            stop=row.stop,
            temperature=prompt.temperature,
            entropy=row.entropy / drawn,
        )
