"""No wrong call of a public function passes in silence or fails in riddles.

`python tests/test_wrong_arguments.py [NAME ...]` prints every wrong call that is met badly."""

import functools
import importlib
import sys
import time
from collections import Counter

import pytest
from wrong_arguments import faults

from compsamp import core, zoo

MODULES = (
    "core forward mixtures data networks training metrics sampling compensation skipstep psld "
    "conjugate splitting restart inpainting flow pfgmpp interop planner zoo experiment"
).split()
GROUPS = 12  # of calls, so that workers share them

INTERNAL = {  # public names that are not called with what a reader types, and why
    "the checks themselves, and what tells kinds apart": """
        require require_one_of require_size is_whole is_real as_real brief_value is_of_kind
        kinds_of check_kind check_numbers check_limit check_arguments is_count check_seal
        check_same check_mixture check_sizes check_state check_channels class_numbers
        check_labels check_card_sizes check_card check_answer check_sent seems_finite is_finite
        check_generator check_batch without_variance check_tensors check_data check_recipe
        check_trainable check_resume check_state_tensors check_fit check_float_pictures
        check_features check_moments check_clouds check_labelled check_detour check_samplers
        require_count require_points require_memory require_finite require_range
        whole_labels labels_binder state_shape check_strength check_module_card check_images
        check_weights check_damping check_step_lengths check_full_noise check_word
        check_splitting check_walk check_rows
        require_still check_agrees require_output require_within require_noise
        warn_if_snapped_far ordered_times""",
    "the arithmetic of a step, on what `prepare` and a denoiser have made": """
        cast unblocks per_sample block_rows sample_matrices mix affine Record records
        cast_records cholesky mean_state compose moment_rates runge_kutta_moments moments_gap
        block_inverse component_laws remembered fourier_field state_scale time_features
        network_time spread_time preconditioning ask_network first_weight ask_in_type
        guided_noise clipped_noise identity_blocks drift_terms
        karras walk final_denoise settings_key coefficients descend jumps jump stretches follow
        is_worked_out start_state transfer transfer_x0 gauss_legendre lag after_first fresh_variance
        goes_by_noise plain_step step_and_noise
        module_answer ddim_step estimate transport_noise coupled_pair phi3 critical_kernel
        stationary_flow collocation factor_at_nodes integrating_factor damping_matrix
        conjugate_step v_parametrisation drift_part group_letters share_of_step euler_letter
        noise_letter position_variance compose_letters conjugate_letter at_time student_radius
        stretched cosine
        usual_batch Samples cumulative_beta table_entry nearly_whole clean_picture step_down
        jump_up forget_memory remove_noise route_steps falling_steps limit_picture widened
        same_time gaussian_gains main_times real_floor kept_step check_promise
        cast_coefficients""",
    "bases: a subclass writes the methods": """
        Equation Clock LinearSDE ScalarSDE BetaSDE DriftFree Parametrised Sampler DSM Classify
        ConditionalUNet ForeignDenoiser""",
    "layers and wrappers, of sizes that the network around them has checked": """
        ResBlock Attention ImageConditioned PackedTransformer KeywordNetwork""",
    "files and folders, after the call that names them": """
        lock_file alone_in temporary_folder clear_dead end_of_link atomic as_plain as_in_file
        seal_of cell_text
        find_files ArrayUnpickler
        arrays_promised inner_network network_differences construct_network weights_hash
        asset_path shipped_networks known_hash tensor_kind fill_weights module_folder new_card
        faces_folder read_face read_config read_part find_parts parts_of_folder own_config
        own_settings
        join_commands""",
    "parts of a training run, which `Trainer` and `fit` put together": """
        draw_times perturb_on_device BatchLoader short_run pictures_hash in_bf16 run_card
        run_state save_run may_be_longer resume_run restore_moments ProgressBoard interruptible
        side_output save_if_possible with_progress_bar augment""",
    "bars in a notebook, a terminal and a log": "can_show_bar progress_lines progress_bar",
    "how damage is drawn, by `masks` and `damage`": """
        distance_to_segment straight_strokes middle_square half_plane glasses hidden_region
        kind_of conditioning Replaced mean_hidden mean_scores compensated""",
    "how a foreign model is read, after `from_diffusers` or a scheduler's configuration": """
        is_installed import_extra map_tensors append_empty count_conditions table_levels
        Convention EDMConvention FlowConvention scheduler_family guessed_class
        class_of_settings table_convention edm_convention model_shape count_classes
        called_network class_conditions read_clipping EvaluationNeeded ResumableWalk TorchNoise
        usual_top table_times edm_times flow_times PlannedEvaluation WalkPlanner WalkSteps
        scheduler_class publish_class model_class tied_parameters ask_at model_config""",
    "parts of `plan_restart`": """
        ImpulseNoise count_draws planned_route restart_candidates RestartForecast
        rank_candidates plan_from_table RestartPlan""",
    "words of a command line, in tests/test_wrong_calls.py": """
        parse_value parse_settings look_up fit_type setting_names spell_value spell_word
        parse_weight compile_network parameter_comments add_argument spell_default option_type
        command_parser spell_command run_command exit_code""",
}


@functools.cache
def calls() -> dict:
    "The right calls; made when they are wanted, for what they need takes seconds."
    import right_calls

    return right_calls.TABLE


def called() -> set:
    "Names of functions and classes that some call makes."
    made = {key.split(".")[-1] for key in calls()}
    made |= {getattr(call.function, "__name__", "") for call in calls().values()}
    for table in (zoo.PROCESSES, zoo.SAMPLERS, zoo.OBJECTIVES):
        made |= {getattr(kind, "func", kind).__name__ for kind in table.values()}
    return made | {name.upper() for name in zoo.SAMPLERS}


def public() -> dict:
    "Every public function and class, and its module."
    found = {}
    for name in MODULES:
        module = importlib.import_module(f"compsamp.{name}")
        found |= {n: name for n in module.__all__ if callable(getattr(module, n))}
    return found


def test_every_public_function_is_called_or_excused():
    excused = set(" ".join(INTERNAL.values()).split())
    names = public()
    assert set(names) - called() - excused == set()
    assert excused - set(names) == set(), "excused, and not there"


@functools.cache
def right(key: str):
    "Make the right call once; what it imports is then loaded."
    call = calls()[key]
    return call.function(**call.arguments) if call.runs else None


@pytest.mark.parametrize("group", range(GROUPS))
def test_wrong_arguments_are_named(group):
    met, count = {}, 0
    for key in list(calls())[group::GROUPS]:
        right(key)
        made, found = faults(calls()[key])
        count += made
        met |= {f"{key}({name}: {tag})": how for name, tag, how in found}
    assert count >= 300
    assert not met, "\n".join(f"{call} {how}" for call, how in met.items())


def test_a_missing_check_is_seen(monkeypatch):
    "The test fails where arguments are not looked at."
    call = calls()["metrics.frechet"]
    assert not faults(call)[1]
    monkeypatch.setattr(core, "check_kind", lambda *_: None)
    assert len(faults(call)[1]) >= 5


def main():
    "Print the wrong calls that are met badly, of all functions or of those named."
    total = Counter()
    for key, call in calls().items():
        if sys.argv[1:] and not any(key.startswith(word) for word in sys.argv[1:]):
            continue
        began = time.perf_counter()
        right(key)
        count, found = faults(call)
        total.update(calls=count, faults=len(found))
        for name, tag, how in found:
            print(f"{key}({name}: {tag}) {how}")
        took = time.perf_counter() - began
        if took > 1:
            print(f"{key}: {took:.1f} s")
    print(f"{len(calls())} functions, {dict(total)}")


if __name__ == "__main__":
    main()
