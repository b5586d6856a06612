import sys; sys.path.insert(0,'/tmp/s12')
import torch, oldsplit, compsamp.splitting as new
from compsamp.psld import *; from compsamp.sampling import *; from compsamp.mixtures import ring
for p in (PSLD(),PSLD(beta=.1,beta_max=16.),CLD()):
    for k in new.SAMPLERS:
        for kw in ({},)+(({'freeze':'v','lam':.3,'shape':'ones'},) if k in('cse','cvv','coba') else ()):
            if p.gamma==0 and 0: continue
            t=grid(p,8,'quadratic'); a=oldsplit.SAMPLERS[k](**kw).prepare(p,t); b=new.SAMPLERS[k](**kw).prepare(p,t)
            for x,y in zip(a,b):
                assert vars(x).keys()==vars(y).keys()
                for n in vars(x): assert torch.equal(torch.as_tensor(vars(x)[n]),torch.as_tensor(vars(y)[n])),(k,n)
print('same coefficients, bit for bit')
for p in (PSLD(),PSLD(.25,4.25),PSLD(beta=.1,beta_max=16.),CLD()):
    for N in (8,12,16,20,30):
        print(p.gamma,p.beta,N,*(f"{k} {float(sample(new.SAMPLERS[k](),ring().denoiser(p),grid(p,N,'quadratic'),n=50,seed=3).x.abs().max()):.1e}" for k in ('roba','coba','rvv','cvv','cse')))
