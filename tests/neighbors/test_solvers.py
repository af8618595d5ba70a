"""diffrax, optimistix and lineax: a vernal MLP as vector field and as residual."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax
import numpy as np
import optimistix
import pytest
import scipy.integrate

import vernal as vn
from tests.world import x64

pytestmark = pytest.mark.relaxed


def field(size: int = 2) -> vn.nn.MLP:
    return vn.nn.MLP(size, size, 8, 1, activation=jnp.tanh, key=jr.key(0))


def solve(model: Any, y0: Any, adjoint: Any = None) -> Any:
    """The end of the solution of ``y' = model(y)``, from 0 to 1."""
    term = diffrax.ODETerm(lambda t, y, model: model(y))
    adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
    control = diffrax.PIDController(rtol=1e-8, atol=1e-8)
    options = {"stepsize_controller": control, "adjoint": adjoint}
    solver = diffrax.Tsit5()
    out = diffrax.diffeqsolve(term, solver, 0, 1, 0.1, y0, args=model, **options)
    return out.ys[0]


def test_a_vector_field() -> None:
    """The solution is SciPy's, and both adjoints give the gradient of differences."""
    with x64():
        model, y0 = field(), jnp.array([1.0, -1.0])
        end = jax.jit(solve)(model, y0)
        numpy_field = lambda t, y: np.asarray(model(jnp.asarray(y)))  # noqa: E731
        span = (0, 1)
        want = scipy.integrate.solve_ivp(numpy_field, span, y0, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(end, want.y[:, -1], rtol=1e-6)

        def loss(model: Any, adjoint: Any = None) -> Any:
            return jnp.sum(solve(model, y0, adjoint) ** 2)

        grads = jax.grad(loss)(model)
        for adjoint in (diffrax.BacksolveAdjoint(), diffrax.DirectAdjoint()):
            other = jax.grad(loss)(model, adjoint)
            assert vn.tree_equal(grads, other, rtol=1e-5, atol=1e-7)
        step = jax.tree.map(lambda x: 1e-4 * jnp.ones_like(x), model)
        up, down = (
            jax.tree.map(lambda x, s, a=a: x + a * s, model, step) for a in (1, -1)
        )
        pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(step), strict=True)
        along = sum(jnp.vdot(g, s) for g, s in pairs)
        np.testing.assert_allclose(along, (loss(up) - loss(down)) / 2, rtol=1e-4)


def test_a_residual() -> None:
    """Levenberg-Marquardt fits a model, taken as the unknown as it is."""
    with x64():
        xs = jnp.linspace(-1, 1, 20)[:, None]
        model = vn.nn.MLP(1, 1, 8, 1, activation=jnp.tanh, key=jr.key(1))

        def residual(model: Any, xs: Any) -> Any:
            return jax.vmap(model)(xs) - jnp.sin(3 * xs)

        solver = optimistix.LevenbergMarquardt(rtol=1e-8, atol=1e-8)
        out = optimistix.least_squares(residual, solver, model, xs, max_steps=1000)
        assert isinstance(out.value, vn.nn.MLP)
        assert jnp.abs(residual(out.value, xs)).max() < 1e-2
        assert jnp.abs(residual(model, xs)).max() > 0.1


def test_an_implicit_function() -> None:
    """The gradient through a root of a model is that of the implicit function."""
    with x64():
        model = jax.tree.map(lambda x: 0.3 * x, field())

        def fixed_point(model: Any) -> Any:
            solver = optimistix.Newton(rtol=1e-10, atol=1e-10)
            residual = lambda y, model: y - model(y) - 0.5  # noqa: E731
            return optimistix.root_find(residual, solver, jnp.zeros(2), model).value

        y, grads = fixed_point(model), jax.grad(lambda m: fixed_point(m).sum())(model)
        jacobian = jnp.eye(2) - jax.jacobian(model)(y)
        cotangent = jnp.linalg.solve(jacobian.T, jnp.ones(2))
        _, pull = jax.vjp(lambda m: m(y), model)
        assert vn.tree_equal(grads, pull(cotangent)[0], rtol=1e-6, atol=1e-9)


def test_a_linear_operator() -> None:
    """lineax solves with the Jacobian of a model."""
    with x64():
        model, y = field(), jnp.array([0.3, -0.2])
        operator = lineax.JacobianLinearOperator(lambda y, _: y + model(y), y)
        found = lineax.linear_solve(operator, jnp.ones(2)).value
        matrix = jnp.eye(2) + jax.jacobian(model)(y)
        np.testing.assert_allclose(found, jnp.linalg.solve(matrix, jnp.ones(2)), 1e-6)
