import torch

from recipes.mini.networks import free_dnabert_s, load_parts, set_dropout
from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.save import save_parts


def test_saved_parts_come_back(network, shape, tmp_path):
    network.round_to_half()
    save_parts(network, tmp_path)
    again = Network(shape)
    load_parts(again, tmp_path, ("esm2", "dnabert_s", "classifier", "heads"))
    for (name, a), b in zip(again.state_dict().items(), network.state_dict().values(), strict=True):
        if "tokens" not in name and "num_batches" not in name and "inv_freq" not in name:
            assert torch.equal(a, b), name


def test_a_fixed_encoder_learns_again_and_dropout_has_new_rates(shape):
    network = Network(shape)
    network.fix_dnabert_s()
    free_dnabert_s(network)
    assert not network.dnabert_s_fixed and all(p.requires_grad for p in network.parameters())
    set_dropout(network, 0.25, 0.5)
    assert network.esm2.dropout.values == 0.25 and network.dnabert_s.dropout.branches == 0.5
